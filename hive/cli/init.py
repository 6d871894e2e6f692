"""`hive init`: a commented hive.toml, an empty queue, and git told to ignore it. Touches no tracked file."""

from __future__ import annotations

import shlex

from hive.cli import exits
from hive.cli.context import Context, database_path
from hive.cli.options import JSON, verb
from hive.cli.output import data, say
from hive.errors import NotReady
from hive.export import envelope
from hive.model import Json

_MORE = "Detects the test command and the branch to start from. What is there already stays as it is."


@verb("init", shown=JSON, more=_MORE)
def init_command(ctx: Context) -> int:
    """Set up Hive in a repository."""
    from hive.config_template import detect_test, render_template
    from hive.workspace import Workspaces

    settings = ctx.settings()
    if settings.repo is None:
        raise NotReady(
            f"{ctx.directory} is not in a git repository", code="H210", fix="git init there, or name one with -C DIR"
        )
    workspaces = Workspaces(settings.state_dir, ctx.clock, settings.environ, settings.branch_prefix)
    found = workspaces.check_repo_blocking(settings.repo)
    path = settings.repo / "hive.toml"
    test = settings.test or detect_test(settings.repo)
    written = not path.exists()
    if written:
        path.write_text(render_template(test, found.branch), "utf-8")
    created = not database_path(settings).exists()
    with ctx.queue(settings, create=True):
        pass
    excluded = workspaces.exclude_state_dir_blocking(settings.repo)
    if not ctx.for_people:
        answer: dict[str, Json] = {
            "config": str(path),
            "written": written,
            "db": settings.db,
            "created": created,
            "excluded": excluded,
        }
        data(envelope("hive.init/1", ctx.clock.now_ms(), **answer, test=list(test), base=found.branch))
        return exits.COMPLETED
    print(f"{path}: {'written' if written else 'there already, left as it is'}")
    print(f"test: {shlex.join(test) or 'none found; set `test` in hive.toml'}")
    print(f"base: {found.branch or 'what is checked out'}")
    print(f"queue: {database_path(settings)}{'' if created else ', there already'}")
    say(ctx, 'next: hive doctor, then: hive add "what to do"')
    return exits.COMPLETED
