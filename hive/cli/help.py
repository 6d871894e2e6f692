"""`hive help`: topics and error codes, offline."""

from __future__ import annotations

import click

from hive.cli import VERBS, exits, verb_named
from hive.cli.context import Context
from hive.cli.options import JSON, verb
from hive.cli.output import data
from hive.errors import UsageError
from hive.export import envelope

_TEXT_COLUMNS = 100


@verb("help", shown=JSON, more="TOPIC is a topic, a verb or an error code such as H230. Without one, lists the topics.")
@click.argument("topic", required=False, metavar="[TOPIC]")
@click.pass_context
def help_command(click_context: click.Context, ctx: Context, *, topic: str | None) -> int:
    """Explain something."""
    from hive.cli.codes import CODES
    from hive.cli.topics import TOPICS

    if topic is None:
        _print_list(ctx)
    elif topic.upper() in CODES:
        _print(ctx, topic.upper(), _wrapped(ctx, CODES[topic.upper()]))
    elif topic in TOPICS:
        _print(ctx, topic, TOPICS[topic].text)
    elif verb_named(topic) is not None:
        _print(ctx, topic, _help_of(click_context, topic))
    else:
        raise _unknown(topic)
    return exits.COMPLETED


def _wrapped(ctx: Context, text: str) -> str:
    import textwrap

    return textwrap.fill(text, min(ctx.width() or _TEXT_COLUMNS, _TEXT_COLUMNS)) if ctx.for_people else text


def _help_of(click_context: click.Context, name: str) -> str:
    group = click_context.find_root().command
    assert isinstance(group, click.Group)
    command = group.get_command(click_context, name)
    assert command is not None
    return command.get_help(click.Context(command, info_name=name, parent=click_context.find_root()))


def _print(ctx: Context, name: str, text: str) -> None:
    if ctx.for_people:
        print(text)
    else:
        data(envelope("hive.help/1", ctx.clock.now_ms(), topic=name, text=text))


def _print_list(ctx: Context) -> None:
    from hive.cli.topics import TOPICS

    if not ctx.for_people:
        topics = {name: topic.title for name, topic in TOPICS.items()}
        data(envelope("hive.help/1", ctx.clock.now_ms(), topics=topics, verbs={row.name: row.help for row in VERBS}))
        return
    for name, topic in TOPICS.items():
        print(f"hive help {name:<12} {topic.title}")
    print(f"hive help {'VERB':<12} what a verb does; hive --help lists them")
    print(f"hive help {'H230':<12} what an error means; codes stand in the brackets of errors")


def _unknown(topic: str) -> UsageError:
    from hive.cli.topics import TOPICS
    from hive.source import did_you_mean, quoted

    meant = did_you_mean(topic, [*TOPICS, *(row.name for row in VERBS)])
    return UsageError(f"there is no topic {quoted(topic)}", code="H145", fix=meant or "hive help lists them")
