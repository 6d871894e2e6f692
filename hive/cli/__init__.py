"""The command line: which verbs there are and where each lives.

A verb's module is imported only when the verb is typed, so this table holds all that listing them needs.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A row of `hive --help`.

    Attributes:
        name: What is typed.
        group: Heading it stands under.
        help: One line, imperative.
        module: Where its click command is, as an attribute named ``<name>_command``.
    """

    name: str
    group: str
    help: str
    module: str


VERBS: tuple[Verb, ...] = (
    Verb("init", "Start", "Set up Hive in a repository", "hive.cli.init"),
    Verb("doctor", "Start", "Check what Hive needs on this machine", "hive.cli.doctor"),
    Verb("demo", "Start", "See it work: scripted agents on a scratch repository, free, no login", "hive.cli.demo"),
    Verb("add", "Queue", "Queue a prompt, or the tasks of files", "hive.cli.add"),
    Verb("hold", "Queue", "Keep tasks from starting their next phase", "hive.cli.change"),
    Verb("release", "Queue", "Let held tasks start again", "hive.cli.change"),
    Verb("prio", "Queue", "Give unfinished tasks another priority", "hive.cli.change"),
    Verb("run", "Run", "Work the queue until nothing is left", "hive.cli.run"),
    Verb("pause", "Run", "Have a running engine start nothing new", "hive.cli.steer"),
    Verb("resume", "Run", "Undo pause", "hive.cli.steer"),
    Verb("stop", "Run", "Have a running engine finish what runs and end", "hive.cli.steer"),
    Verb("set", "Run", "Change a running engine: agents=N", "hive.cli.steer"),
    Verb("status", "Watch", "Say how the queue stands and what to do next", "hive.cli.status"),
    Verb("ls", "Watch", "List tasks", "hive.cli.ls"),
    Verb("show", "Watch", "Show one task: what was asked, what became of it, what to do", "hive.cli.show"),
    Verb("logs", "Watch", "Print what the agent of a task said", "hive.cli.logs"),
    Verb("events", "Watch", "Print what happened, in order", "hive.cli.events"),
    Verb("wait", "Watch", "Wait until tasks are done or need you", "hive.cli.wait"),
    Verb("diff", "Decide", "Print what a task changed", "hive.cli.diff"),
    Verb("retry", "Decide", "Queue failed, cancelled or stuck tasks again", "hive.cli.change"),
    Verb("cancel", "Decide", "Cancel tasks, running ones included", "hive.cli.change"),
    Verb("config", "Upkeep", "Show settings and where they come from", "hive.cli.config"),
    Verb("completion", "Upkeep", "Print the completion script of a shell", "hive.cli.completion"),
    Verb("help", "Upkeep", "Explain a topic or an error code, offline", "hive.cli.help"),
    Verb("version", "Upkeep", "Print the versions of Hive and what it runs on", "hive.cli.version"),
)
GROUPS = ("Start", "Queue", "Run", "Watch", "Decide", "Upkeep")


def verb_named(name: str) -> Verb | None:
    """Return the row of a verb, or None."""
    return next((row for row in VERBS if row.name == name), None)
