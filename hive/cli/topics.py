"""Help topics, for reading offline."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from hive.cli.exits import MEANINGS


class Topic(NamedTuple):
    """What a topic is about, in a line, and its text."""

    title: str
    text: str


_START = """Start

  hive init                          write hive.toml, make the queue
  hive doctor                        is everything there?
  hive add "Add type hints to api/"  queue a task; again and again, or from a file: hive add tasks.yaml
  hive run                           work the queue; the same command again goes on where it stopped
  hive status                        how it stands, and what to type next
  hive diff 1                        what a task changed, on its own branch

hive demo shows all of it on a scratch repository, free and without a login."""

_SELECTORS = """Selectors say which tasks:

  412             the task with this id
  412..430        a range; 412.. is open at its end
  @failed         all in a state: blocked queued in_progress needs_you completed failed cancelled
  @unfinished     all that are not completed, failed or cancelled
  @held  @all     all that are held; all
  batch:NAME      of a batch
  group:G         of a failure group: failures that are alike (hive show TASK names it)
  tag:T           with a tag
  api/upload      the task with this key; BATCH/KEY where a key is used in several batches

Several selectors mean all of their tasks together. A filter narrows them, all of its words must hold:

  hive ls -F 'state:failed,needs_you tag:api cost>2 age<1h "ConnectionError"'

Fields: state batch group tag key role phase reason. Comparisons: cost age runs priority with < <= > >= =. Text in
quotes is looked for in title, key and prompt."""

_STATES = """States of a task

  blocked       waits for tasks it needs
  queued        may start, at once or after a moment (back-off, limit); a held task waits for its release
  in_progress   an agent works on it
  needs_you     a person must decide
  completed     done, with evidence: a commit, and the test command's exit code
  failed        ended without result; hive show says why
  cancelled     a person ended it

hive retry queues failed, cancelled and needs_you tasks again."""

_AGENTS = """For coding agents: how to use Hive from a program

  ids=$(hive add --print-ids --each prompts.txt)   one task a line; prints ids
  hive run --json --progress none                  work them; the last line is the summary
  hive wait $ids --timeout 1h --json               exit 0 all completed, 1 failed, 3 needs a person, 124 timeout
  hive ls @failed --json                           {"schema": "hive.tasks/1", "as_of": ..., "data": [...]}
  hive show 412 --json                             task, runs, needs
  hive events --jsonl --since SEQ                  one event a line; remember the last seq and miss nothing
  hive diff 412 | git apply                        take over a change
  hive retry 412 --note "what to do differently"   send it back

stdout is data, stderr is talk. JSON carries `schema` and only ever grows. Nothing asks for input where no terminal is;
changing more than one task then needs --yes."""

_FILES = """Task files: YAML, TOML, JSON lines, Markdown, or plain lines with --each

  batch: pathlib
  defaults: {base: main, test: "pytest -q", task_budget: 2.00}
  tasks:
    - key: core/paths
      title: Convert core/paths.py to pathlib
      prompt: |
        Replace os.path with pathlib in src/core/paths.py. Keep public signatures.
    - {key: api/upload, after: [core/paths], prompt_file: prompts/upload.md, priority: 5}
    - matrix: {file: "glob:src/io/*.py"}
      key: "io/{file.stem}"
      prompt: "Convert {file} to pathlib."

A file is judged whole before anything is queued. Adding it again adds only tasks whose keys are new. All keys:
hive config schema."""


def _exit_codes() -> str:
    lines = [f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items()]
    return "\n".join(["Exit codes; when several hold, the first listed wins", "", *lines])


TOPICS: Mapping[str, Topic] = MappingProxyType(
    {
        "start": Topic("the first five minutes", _START),
        "agents": Topic("using Hive from a program or a coding agent", _AGENTS),
        "files": Topic("task files", _FILES),
        "selectors": Topic("saying which tasks: 412, @failed, batch:NAME, -F", _SELECTORS),
        "states": Topic("states of a task", _STATES),
        "exit-codes": Topic("what an exit code means", _exit_codes()),
    }
)
"""Topics by name."""
