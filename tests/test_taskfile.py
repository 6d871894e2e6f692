from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import TaskFileError, UsageError
from hive.model import NewTask, Phase, WorkspaceKind
from hive.taskfile import KEYS, Context, Format, InvalidTaskFileError, TaskFile, read, schema
from hive.taskfile.matrix import CAP

EXAMPLE = """\
batch: pathlib
defaults: {base: main, test: "pytest -q", task_budget: 2.00, phases: [apply, test]}
tasks:
  - key: core/paths
    title: Convert core/paths.py to pathlib
    prompt: |
      Replace os.path with pathlib in src/core/paths.py. Keep public signatures.
    paths: [src/core/paths.py]       # scope
  - {key: api/upload, after: [core/paths], prompt_file: prompts/upload.md, priority: 5, model: opus, role: backend}
  - matrix: {file: "glob:src/io/*.py"}
    key: "io/{file.stem}"
    prompt: "Convert {file} to pathlib."
"""


def of(name: str, text: str, context: Context | None = None, *, each: bool = False) -> TaskFile:
    return read(Path(name), text.encode(), context, each=each)


def refused(
    name: str, text: str | bytes, context: Context | None = None, *, each: bool = False
) -> InvalidTaskFileError:
    with pytest.raises(InvalidTaskFileError) as caught:
        read(Path(name), text if isinstance(text, bytes) else text.encode(), context, each=each)
    return caught.value


def only(found: TaskFile) -> NewTask:
    (task,) = found.tasks
    return task


@pytest.fixture
def example(tmp_path: Path) -> Path:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "upload.md").write_text("Convert the upload.\n")
    (tmp_path / "src" / "io").mkdir(parents=True)
    for name in ("write.py", "read.py", "notes.txt"):
        (tmp_path / "src" / "io" / name).write_text("")
    (tmp_path / "tasks.yaml").write_text(EXAMPLE)
    return tmp_path / "tasks.yaml"


def test_the_example_of_the_manual(example: Path) -> None:
    """Defaults, a prompt file, needs and a matrix give the tasks they say."""
    found = read(example)
    first, second, *io = found.tasks
    assert found.batch == "pathlib"
    assert (first.key, first.base, first.test, first.budget_usd) == ("core/paths", "main", ("pytest", "-q"), 2.0)
    assert first.prompt == "Replace os.path with pathlib in src/core/paths.py. Keep public signatures.\n"
    assert (first.paths, first.phases) == (("src/core/paths.py",), (Phase.APPLY, Phase.TEST))
    assert (second.after, second.prompt, second.priority) == (("core/paths",), "Convert the upload.\n", 5)
    assert (second.model, second.role, second.title) == ("opus", "backend", "Convert the upload.")
    assert [(task.key, task.prompt) for task in io] == [
        ("io/read", "Convert src/io/read.py to pathlib."),
        ("io/write", "Convert src/io/write.py to pathlib."),
    ]
    assert {task.batch for task in found.tasks} == {"pathlib"}


def test_a_command_task() -> None:
    """A line with a command is a task of the command agent, in no workspace if it says so."""
    line = '{"key":"t1","command":["./prog","arg"],"workspace":"none","phases":["apply"]}'
    assert only(of("tasks.jsonl", line)) == NewTask(
        title="./prog arg",
        key="t1",
        batch="tasks",
        agent="command",
        command=("./prog", "arg"),
        workspace=WorkspaceKind.NONE,
        phases=(Phase.APPLY,),
    )


def test_a_script_task() -> None:
    """A task with a script is for the scripted agent, and `workspace` stays repo unless it is given."""
    task = only(of("t.yaml", "- script: |\n    say hello\n    exit 0\n"))
    assert (task.agent, task.script, task.workspace) == ("scripted", "say hello\nexit 0\n", WorkspaceKind.REPO)


SAME = {
    "t.yaml": "batch: b\ndefaults: {model: opus}\ntasks:\n- {key: a, prompt: do a}\n"
    "- {key: c, prompt: do c, after: a, hold: true}\n",
    "t.toml": 'batch = "b"\n[defaults]\nmodel = "opus"\n[[task]]\nkey = "a"\nprompt = "do a"\n'
    '[[task]]\nkey = "c"\nprompt = "do c"\nafter = ["a"]\nhold = true\n',
    "t.jsonl": '{"batch":"b","key":"a","prompt":"do a","model":"opus"}\n\n'
    '{"batch":"b","key":"c","prompt":"do c","model":"opus","after":["a"],"hold":true}\n',
}


@pytest.mark.parametrize("name", SAME)
def test_formats_say_the_same(name: str) -> None:
    """YAML, TOML and JSON lines with the same content give the same tasks."""
    first, second = of(name, SAME[name]).tasks
    assert first == NewTask(title="do a", prompt="do a", key="a", batch="b", model="opus")
    assert second == NewTask(title="do c", prompt="do c", key="c", batch="b", model="opus", after=("a",), hold=True)


def test_markdown_sections() -> None:
    """Every second-level heading is a task, front matter holds defaults, fences and deeper headings are body."""
    text = (
        "---\nbatch: docs\nmodel: opus\n---\n# Plan\n\nintro\n\n"
        "## First one ##\n\nDo it.\n\n### how\n```sh\n## no\n```\n"
        "## Second\n# End\nout\n"
    )
    found = of("plan.md", text)
    first, second = found.tasks
    assert (found.batch, first.model, second.model) == ("docs", "opus", "opus")
    assert (first.title, first.prompt) == ("First one", "Do it.\n\n### how\n```sh\n## no\n```")
    assert (second.title, second.prompt) == ("Second", "Second")
    assert found.notes == ("2 lines outside of `##` sections belong to no task",)


def test_markdown_checklist() -> None:
    """Without headings open boxes are tasks with what is indented below them, and ticked ones are left out."""
    found = of(
        "todo.md", "# Todo\n- [ ] Fix a\n  in a.py\n\n  and b.py\n- [x] done\n* [ ] Fix c\n  - [ ] inner\ntext\n"
    )
    assert [task.prompt for task in found.tasks] == ["Fix a\n  in a.py\n\n  and b.py", "Fix c\n  - [ ] inner"]
    assert [task.title for task in found.tasks] == ["Fix a", "Fix c"]
    assert found.notes == ("1 ticked boxes were left out",)


def test_each_line_is_a_task() -> None:
    """With `each` every line that is not blank is a prompt, whatever the suffix."""
    found = of("lines.txt", "one\r\n\n  # two\nthree", each=True)
    assert [task.prompt for task in found.tasks] == ["one", "# two", "three"]


def test_plain_text_is_one_prompt() -> None:
    """A text of no known format is one prompt, with a word about `--each` when it has several lines."""
    found = read(None, b"Fix it\n\nand test it\n")
    assert (only(found).prompt, found.batch) == ("Fix it\n\nand test it", "default")
    assert found.notes == ("read as one prompt; with --each every line becomes a task",)
    assert read(None, b"Fix it\n").notes == ()


@pytest.mark.parametrize("text", [*SAME.values()])
def test_standard_input_is_recognised(text: str) -> None:
    """What comes from standard input is read in the format it looks like."""
    assert [task.key for task in read(None, text.encode()).tasks] == ["a", "c"]


def test_the_format_can_be_chosen() -> None:
    """A format that was chosen wins over the suffix."""
    assert only(read(Path("x.txt"), b"- prompt: x", chosen=Format.YAML)).prompt == "x"


def test_phases_follow_the_test_command() -> None:
    """Without phases a task is tested when it or the settings know a test command, unless it says there is none."""
    text = "- {key: a, prompt: x}\n- {key: b, prompt: x, test: make test}\n- {key: c, prompt: x, test: []}\n"
    text += "- {key: d, command: [x], workspace: none}\n- {key: e, command: [x], workspace: none, test: t}\n"
    both, apply = (Phase.APPLY, Phase.TEST), (Phase.APPLY,)
    assert [task.phases for task in of("t.yaml", text).tasks] == [apply, both, apply, apply, both]
    known = Context(has_test=True)
    assert [task.phases for task in of("t.yaml", text, known).tasks] == [both, both, apply, apply, both]
    chosen = Context(has_test=True, phases=apply)
    assert {task.phases for task in of("t.yaml", text, chosen).tasks} == {apply}


def test_env_of_defaults_and_task_are_joined() -> None:
    """The environment of a task adds to that of the defaults; everything else replaces it."""
    text = "defaults: {env: {A: '1', B: '1'}, tags: [x]}\ntasks: [{prompt: p, env: {B: '2'}, tags: [y]}]\n"
    task = only(of("t.yaml", text))
    assert (task.env, task.tags) == ({"A": "1", "B": "2"}, ("y",))


def test_durations_and_lists_may_be_short() -> None:
    """Durations take units, and a list of one may be written as its item."""
    task = only(of("t.yaml", "- {prompt: p, timeout: 10m, idle_timeout: 90, tags: x, phases: apply}\n"))
    assert (task.timeout_s, task.idle_timeout_s, task.tags, task.phases) == (600, 90, ("x",), (Phase.APPLY,))


def test_yaml_reads_words_as_people_mean_them() -> None:
    """`no`, `on`, `1:30` and `012` are text, quoted numbers too, and merge keys and aliases work."""
    text = "- &base {key: no, prompt: '1', tags: [on, y]}\n- {<<: *base, key: 1:30}\n- <<: [*base]\n  key: 012\n"
    tasks = of("t.yaml", text).tasks
    assert [task.key for task in tasks] == ["no", "1:30", "012"]
    assert {(task.prompt, task.tags) for task in tasks} == {("1", ("on", "y"))}


# Keys nobody wrote


def test_made_keys_do_not_depend_on_the_position() -> None:
    """Moving a task within its file, or changing its priority, keeps its key; changing its prompt does not."""
    one = of("t.yaml", "- prompt: Fix a.py\n- prompt: Fix b.py\n").tasks
    two = of("t.yaml", "- {prompt: Fix b.py, priority: 3}\n- prompt: Fix a.py\n").tasks
    assert [task.key for task in one] == [task.key for task in reversed(two)]
    assert one[0].key != one[1].key
    assert (one[0].key or "").startswith("fix-a-py-")


def test_tasks_that_are_alike_get_numbers() -> None:
    """The same task written three times is three tasks, with the same keys each time the file is read."""
    keys = [task.key or "" for task in of("t.txt", "say\nsay\nsay\n", each=True).tasks]
    assert keys == [keys[0], f"{keys[0]}-2", f"{keys[0]}-3"]
    assert keys == [task.key for task in of("t.txt", "say\nsay\nsay\n", each=True).tasks]


def test_the_batch_is_named_after_the_file() -> None:
    """The batch is what was asked for, else what the file says, else its stem."""
    assert of("dir/nightly.yaml", "- prompt: x").batch == "nightly"
    assert only(of("t.yaml", "batch: b\ntasks: [{prompt: x}]")).batch == "b"
    asked = Context(batch="asked")
    assert only(of("t.yaml", "batch: b\ntasks: [{prompt: x}]", asked)).batch == "asked"
    assert only(of("t.jsonl", '{"prompt":"x","batch":"b"}', asked)).batch == "asked"


# Errors


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "tasks.yaml",
            "tasks:\n  - {key: core/paths, prompt: x}\n  - {key: api/upload, prompt: x, after: [cor/paths]}\n",
            (
                "error[H112]: `after: [cor/paths]` names no task\n"
                "  --> tasks.yaml:3:42\n"
                "3 |   - {key: api/upload, prompt: x, after: [cor/paths]}\n"
                "  |                                          ^^^^^^^^^ did you mean `core/paths`?\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "- prompt: |\n    a\n    b\n  promt: x\n",
            (
                "error[H111]: there is no key `promt`\n"
                "  --> t.yaml:4:3\n"
                "4 |   promt: x\n"
                "  |   ^^^^^ did you mean `prompt`?\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.jsonl",
            '{"prompt":"x"}\n{"prompt":"y", "tags": ["a", 7]}\n',
            (
                "error[H114]: `tags` must be a tag, not `7`\n"
                "  --> t.jsonl:2:30\n"
                '2 | {"prompt":"y", "tags": ["a", 7]}\n'
                "  |                              ^ write it in quotes\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.toml",
            '[[task]]\nprompt = "x"\n\n[[task]]\nprompt = "y"\npriority = "high"\n',
            (
                "error[H114]: `priority` must be a whole number from -1000 to 1000, not `high`\n"
                "  --> t.toml:6:12\n"
                '6 | priority = "high"\n'
                "  |            ^^^^^^\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.md",
            "---\nmodle: opus\n---\n## A\nx\n",
            (
                "error[H111]: there is no key `modle`\n"
                "  --> t.md:2:1\n"
                "2 | modle: opus\n"
                "  | ^^^^^ did you mean `model`?\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "- {key: a, prompt: x, after: c}\n- {key: b, prompt: x, after: a}\n- {key: c, prompt: x, after: b}\n",
            (
                "error[H113]: tasks wait for each other: a -> c -> b -> a\n"
                "  --> t.yaml:1:30\n"
                "1 | - {key: a, prompt: x, after: c}\n"
                "  |                              ^\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "- {prompt: x, phases: [apply, review]}\n",
            (
                "error[H120]: `phases` names `review`, which is not in this version; it has apply and test\n"
                "  --> t.yaml:1:31\n"
                "1 | - {prompt: x, phases: [apply, review]}\n"
                "  |                               ^^^^^^\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "- prompt: x\n  title: a\n  prompt: y\n",
            (
                "error[H115]: the key `prompt` stands here twice\n"
                "  --> t.yaml:3:3\n"
                "3 |   prompt: y\n"
                "  |   ^^^^^^\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "- {prompt: x, command: ./prog arg}\n",
            (
                "error[H114]: `command` must be a list of texts, not one text\n"
                "  --> t.yaml:1:24\n"
                "1 | - {prompt: x, command: ./prog arg}\n"
                '  |                        ^^^^^^^^^^ write ["./prog", "arg"]\n'
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "t.yaml",
            "tasks:\n\t- prompt: x\n",
            (
                "error[H110]: is no valid YAML: found character that cannot start any token\n"
                "  --> t.yaml:2:1\n"
                "2 |  - prompt: x\n"
                "  | ^ YAML indents with spaces, not tabs\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
        (
            "wide.yaml",
            "- {prompt: 変換, colour: 1}\n",
            (
                "error[H111]: there is no key `colour`\n"
                "  --> wide.yaml:1:16\n"
                "1 | - {prompt: 変換, colour: 1}\n"
                "  |                  ^^^^^^\n"
                "fix: correct it and run the same command again; nothing was queued"
            ),
        ),
    ],
)
def test_errors_as_people_see_them(name: str, text: str, expected: str) -> None:
    """An error says what and where, shows the line with a caret, what was meant, and what to do."""
    assert "\n".join(refused(name, text).lines()) == expected


@pytest.mark.parametrize(
    ("name", "text", "code", "where", "message"),
    [
        ("t.yaml", "tasks: 5\n", "H114", "1:8", "`tasks` must be a list of tasks"),
        ("t.yaml", "taks: []\n", "H111", "1:1", "there is no key `taks` at the top of a task file"),
        ("t.yaml", "- 7\n", "H114", "1:3", "a task must be a table of keys, not `7`"),
        ("t.yaml", "", "H116", "1:1", "there are no tasks in it"),
        ("t.yaml", "tasks: []\n", "H116", "1:1", "there are no tasks in it"),
        ("t.yaml", "- {title: x}\n", "H116", "1:3", "the task has no prompt"),
        ("t.yaml", "- {title: x, prompt: ' '}\n", "H116", "1:22", "the task has no prompt"),
        (
            "t.yaml",
            "- {key: a, prompt: x}\n- {key: a, prompt: y}\n",
            "H115",
            "2:9",
            "the key `a` names two tasks, the first in line 1",
        ),
        ("t.yaml", "- {key: a, prompt: x, after: a}\n", "H113", "1:30", "the task `a` waits for itself"),
        (
            "t.yaml",
            "- {prompt: x, phases: [test, apply]}\n",
            "H114",
            "1:23",
            "`phases` must name each phase once, in the order apply, test",
        ),
        (
            "t.yaml",
            "- {prompt: x, phases: [apply, test]}\n",
            "H114",
            "1:23",
            "`phases` has test, but there is no test command",
        ),
        (
            "t.yaml",
            "- {prompt: x, test: 'a | b'}\n",
            "H114",
            "1:21",
            "`test` is run without a shell, so `|` would be a plain argument",
        ),
        (
            "t.yaml",
            '- {prompt: x, test: "a \'b"}\n',
            "H114",
            "1:21",
            "`test` cannot be split into words: no closing quotation",
        ),
        (
            "t.yaml",
            "- {prompt: x, paths: [a, ../b]}\n",
            "H118",
            "1:26",
            "`paths` must stay below its directory, which `../b` does not",
        ),
        (
            "t.yaml",
            "- {prompt: x, paths: /etc}\n",
            "H118",
            "1:22",
            "`paths` must stay below its directory, which `/etc` does not",
        ),
        (
            "t.yaml",
            "- {prompt_file: ../x.md}\n",
            "H118",
            "1:17",
            "`prompt_file` must stay below its directory, which `../x.md` does not",
        ),
        (
            "t.yaml",
            "- {prompt_file: nowhere.md}\n",
            "H123",
            "1:17",
            "`prompt_file` `nowhere.md` cannot be read: no such file or directory",
        ),
        ("t.yaml", "- {prompt: x, prompt_file: y}\n", "H114", "1:15", "`prompt` and `prompt_file` exclude each other"),
        ("t.yaml", "- {prompt: x, repo: nowhere}\n", "H114", "1:21", "`repo` `nowhere` is no directory"),
        (
            "t.yaml",
            "- {prompt: x, command: [a], script: b}\n",
            "H114",
            "1:29",
            "`script` is for the agent scripted, not for command",
        ),
        ("t.yaml", "- {prompt: x, agent: command}\n", "H116", "1:22", "the agent command needs `command`"),
        ("t.yaml", "- {prompt: x, command: []}\n", "H114", "1:24", "`command` is empty"),
        (
            "t.yaml",
            "- {prompt: x, base: --upload-pack=x}\n",
            "H114",
            "1:21",
            "`base` must not begin with a dash, as `--upload-pack=x` does",
        ),
        (
            "t.yaml",
            "- {prompt: x, env: {HIVE_RUN_ID: x}}\n",
            "H114",
            "1:34",
            "`env` must not set `HIVE_RUN_ID`: names beginning with HIVE_ are Hive's own",
        ),
        ("t.yaml", "- {prompt: x, env: {A: 1}}\n", "H114", "1:24", "`env` `A` must be text, not `1`"),
        ("t.yaml", "- {prompt: x, hold: yes}\n", "H114", "1:21", "`hold` must be true or false, not `yes`"),
        ("t.yaml", "- {prompt: x, batch: b}\n", "H111", "1:15", "the key `batch` stands at the top of the file"),
        ("t.yaml", "defaults: {key: a}\ntasks: [{prompt: x}]\n", "H111", "1:12", "the key `key` cannot have a default"),
        (
            "t.yaml",
            "- {prompt: x, permission_mode: bypassPermissions}\n",
            "H114",
            "1:32",
            (
                "`permission_mode` cannot be bypassPermissions in a task file; "
                "give the flag --permission-mode bypassPermissions"
            ),
        ),
        ("t.yaml", '- {prompt: "a\\0b"}\n', "H114", "1:12", "`prompt` holds a NUL character"),
        (
            "t.yaml",
            '- {prompt: x, key: "a\\tb"}\n',
            "H114",
            "1:20",
            "`key` must be a key of 1 to 200 printable characters, not `a b`",
        ),
        (
            "t.yaml",
            "- !!python/object:os.system {}\n",
            "H110",
            "1:3",
            "the tag `tag:yaml.org,2002:python/object:os.system` is not allowed",
        ),
        ("t.yaml", "- &a [*a]\n", "H110", "1:7", "the alias `*a` means nothing here"),
        (
            "t.yaml",
            "- prompt: x\n---\n- prompt: y\n",
            "H110",
            "2:1",
            "a second YAML document begins here: one file holds one",
        ),
        ("t.yaml", "[" * 30, "H117", "1:21", "is nested more than 20 deep"),
        ("t.yaml", "- prompt: 'a\x01'\n", "H110", "1:13", "is no valid YAML: control characters are not allowed"),
        ("t.jsonl", '{"prompt":"x"}\n{"prompt":}\n', "H110", "2:11", "is no valid JSON: expecting value"),
        ("t.jsonl", '{"prompt":"x","title":"a","title":"b"}\n', "H115", "1:27", "the key `title` stands here twice"),
        ("t.jsonl", "[1]\n", "H114", "1:1", 'a line must be an object such as {"prompt": "..."}, not `[1]`'),
        ("t.jsonl", '{"prompt":"x","priority":NaN}\n', "H110", "1:1", "is no valid JSON: nan is no number"),
        (
            "t.jsonl",
            '{"prompt":"\\ud800"}\n',
            "H114",
            "1:11",
            "`prompt` holds half a surrogate pair, which is no character",
        ),
        ("t.jsonl", "[" * 100_000, "H110", "1:1", "is no valid JSON: nested too deeply"),
        ("t.toml", '[[task]]\nprompt = "x"\nprompt = "y"\n', "H115", "3:1", "this key or table is defined twice"),
        ("t.toml", "[[task]]\nprompt = \n", "H110", "2:10", "is no valid TOML: invalid value"),
        ("t.md", "# Title\ntext\n", "H116", "1:1", "there are no tasks in it"),
        ("t.md", "---\n- a\n---\n## A\n", "H114", "2:1", "front matter must be a table of defaults"),
        ("t.md", "---\na: [\n---\n## A\n", "H110", "3:1", "is no valid YAML: did not find expected node content"),
    ],
)
def test_what_is_refused_and_where(name: str, text: str, code: str, where: str, message: str) -> None:
    """Each thing that can be wrong has a code, a message and a place."""
    error = refused(name, text)
    assert (error.code, error.where, error.message) == (code, f"{name}:{where}", message)
    assert len(error.problems) == 1
    assert error.exit_code == 2


def test_all_errors_come_at_once_in_order() -> None:
    """One reading names every error of a file, in the order of its lines."""
    text = "defaults: {modle: x}\ntasks:\n- {prompt: x, retries: -1}\n- {key: a, after: b, prompt: x}\n- {promt: y}\n"
    error = refused("t.yaml", text)
    assert [problem.where for problem in error.problems] == ["t.yaml:1:12", "t.yaml:3:24", "t.yaml:4:19", "t.yaml:5:4"]
    assert error.lines()[-2:] == ["4 errors", "fix: correct it and run the same command again; nothing was queued"]


def test_alike_errors_are_told_once() -> None:
    """The same mistake on many lines is one entry with the next places and the number of the others."""
    error = refused("t.jsonl", '{"promt":"x"}\n' * 50)
    assert len(error.problems) == 1
    assert error.problems[0].why == "the same at 2:2, 3:2, 4:2 and 46 more"
    assert error.lines()[-2] == "50 errors, alike ones shown once"


def test_at_most_twenty_are_shown() -> None:
    """However many different mistakes there are, twenty are shown and all are counted."""
    error = refused("t.jsonl", "".join(f'{{"prompt":"x","k{i}":1}}\n' for i in range(100)))
    assert (len(error.problems), error.count) == (20, 100)


def test_a_key_is_known_although_its_task_is_wrong() -> None:
    """A need that names a wrong task is not a second error."""
    error = refused("t.yaml", "- {key: a, prompt: 5}\n- {key: b, prompt: x, after: a}\n")
    assert [problem.code for problem in error.problems] == ["H114"]


def test_needs_may_name_stored_tasks() -> None:
    """A key that the store has in the same batch may be waited for; one of another batch may not."""
    text = "batch: b\ntasks: [{prompt: x, after: old}]\n"
    assert only(of("t.yaml", text, Context(stored={"b": {"old"}}))).after == ("old",)
    assert refused("t.yaml", text, Context(stored={"c": {"old"}})).code == "H112"


def test_a_long_chain_and_a_circle_in_it() -> None:
    """Needs may form chains of any length; a circle is named by its first eight tasks."""
    count = 5000
    lines = [f'{{"key":"t{i}","prompt":"x","after":["t{i + 1}"]}}' for i in range(count)]
    chain = "\n".join([*lines, f'{{"key":"t{count}","prompt":"x"}}'])
    assert len(of("t.jsonl", chain).tasks) == count + 1
    circle = "\n".join([*lines, f'{{"key":"t{count}","prompt":"x","after":["t{count - 9}"]}}'])
    names = [f"t{i}" for i in range(count - 9, count - 1)]
    assert refused("t.jsonl", circle).message == f"tasks wait for each other: {' -> '.join(names)} -> … -> {names[0]}"


def test_needs_do_not_cross_batches() -> None:
    """The same key in two batches is two tasks, and a need looks only into its own."""
    text = '{"batch":"a","key":"k","prompt":"x"}\n{"batch":"b","key":"k","prompt":"x"}\n'
    assert [task.batch for task in of("t.jsonl", text).tasks] == ["a", "b"]
    assert refused("t.jsonl", text + '{"batch":"c","prompt":"x","after":"k"}\n').code == "H112"


# Prompts and files


def test_a_prompt_file_may_not_lead_outside(tmp_path: Path) -> None:
    """A symbolic link to a file elsewhere is no way out of the directory."""
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "link").symlink_to(tmp_path / "secret")
    path = inside / "t.yaml"
    path.write_text("- prompt_file: link\n")
    with pytest.raises(InvalidTaskFileError) as caught:
        read(path)
    assert caught.value.code == "H118"


@pytest.mark.parametrize(
    ("content", "code"), [(b"\xff\xfe", "H123"), (b"a\0b", "H123"), (b" \n", "H116"), (b"x" * 10_000_001, "H117")]
)
def test_a_prompt_file_must_hold_a_prompt(tmp_path: Path, content: bytes, code: str) -> None:
    """A prompt file that is no text, empty or too large is refused."""
    (tmp_path / "p.md").write_bytes(content)
    (tmp_path / "t.yaml").write_text("- prompt_file: p.md\n")
    with pytest.raises(InvalidTaskFileError) as caught:
        read(tmp_path / "t.yaml")
    assert caught.value.code == code
    assert len(caught.value.problems) == 1


def test_a_prompt_file_must_be_a_plain_file(tmp_path: Path) -> None:
    """A directory or a pipe in place of a prompt is refused, and nothing waits for its writer."""
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "t.yaml").write_text("- prompt_file: d\n- prompt_file: pipe\n")
    with pytest.raises(InvalidTaskFileError) as caught:
        read(tmp_path / "t.yaml")
    assert [problem.message for problem in caught.value.problems] == [
        "`prompt_file` `d` is no file",
        "`prompt_file` `pipe` is no file",
    ]


def test_a_misspelt_prompt_file_is_suggested(tmp_path: Path) -> None:
    """A prompt file that does not exist brings the name of one that does."""
    (tmp_path / "upload.md").write_text("x")
    (tmp_path / "t.yaml").write_text("- prompt_file: uplaod.md\n")
    with pytest.raises(InvalidTaskFileError) as caught:
        read(tmp_path / "t.yaml")
    assert caught.value.excerpt.endswith("did you mean `upload.md`?")


def test_the_largest_prompt() -> None:
    """A prompt of ten million bytes passes, one byte more does not."""
    assert len(only(of("t.txt", "x" * 10_000_000)).prompt) == 10_000_000
    error = refused("t.txt", "x" * 10_000_001)
    assert error.message == "`prompt` has 10,000,001 bytes; at most 10,000,000 can be handed over"


def test_another_repository_becomes_absolute(tmp_path: Path) -> None:
    """A relative `repo` is meant from the task file."""
    (tmp_path / "other").mkdir()
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "t.yaml").write_text("- {prompt: x, repo: ../other}\n")
    assert only(read(tmp_path / "q" / "t.yaml")).repo == str((tmp_path / "other").resolve())


@pytest.mark.parametrize(
    ("content", "where"),
    [(b"a: b\nc: \xff", "t.yaml:2:4"), (b"a\n\0", "t.yaml:2:1"), (b"\x89PNG\r\n\x1a\n", "t.yaml:1:1")],
)
def test_what_is_no_text_is_refused(content: bytes, where: str) -> None:
    """Binary rubbish is refused at its first wrong byte."""
    with pytest.raises(TaskFileError) as caught:
        read(Path("t.yaml"), content)
    assert (caught.value.code, caught.value.where) == ("H110", where)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a directory are errors with a code."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(TaskFileError) as caught:
            read(path)
        assert caught.value.code == "H110"


def test_a_byte_order_mark_is_no_content() -> None:
    """A file saved with a byte order mark reads the same, and columns do not count it."""
    assert only(read(Path("t.yaml"), b"\xef\xbb\xbf- prompt: x")).prompt == "x"
    assert refused("t.yaml", b"\xef\xbb\xbfpromt: x").where == "t.yaml:1:1"


def test_scripts_are_judged_by_whoever_plays_them() -> None:
    """The caller's check of scripts becomes an error at the script."""

    def check(script: str) -> None:
        if "bad" in script:
            raise UsageError(f"no step `{script}`", code="H999")

    context = Context(check_script=check)
    assert only(of("t.yaml", "- script: good", context)).script == "good"
    error = refused("t.yaml", "- script: bad", context)
    assert (error.code, error.where, error.message) == (
        "H122",
        "t.yaml:1:11",
        "`script` cannot be played: no step `bad`",
    )


def test_hostile_content_cannot_reach_the_terminal() -> None:
    """Escape sequences in a file are not in its error messages."""
    error = refused("t.jsonl", '{"prompt":"x","\x9b31m":1}\n'.encode())
    assert "\x9b" not in "".join(error.lines())
    assert "\x1b" not in (only(of("t.jsonl", '{"prompt":"\\u001b[31mred"}')).title)


# Matrix


def test_matrix_makes_every_combination() -> None:
    """Two axes make their product, numbers and booleans as they were written, braces of code left alone."""
    text = (
        '- {matrix: {a: [x/y.py, z], n: [1, true]}, key: "{a}-{n}", prompt: "{a.stem} {a.parent} {{a}} {other} { }"}\n'
    )
    tasks = of("t.yaml", text).tasks
    assert [task.key for task in tasks] == ["x/y.py-1", "x/y.py-true", "z-1", "z-true"]
    assert tasks[0].prompt == "y x {a} {other} { }"


@pytest.mark.parametrize(
    ("matrix", "code", "where"),
    [
        ("{a: []}", "H119", "1:16"),
        ("{a: 5}", "H119", "1:16"),
        ("[1]", "H119", "1:12"),
        ("{a: [[1]]}", "H119", "1:17"),
        ("{a-b: [1]}", "H119", "1:13"),
        ("{a: 'glob:*.nothing'}", "H119", "1:16"),
        ("{a: 'glob:../*'}", "H118", "1:16"),
        ("{a: 'glob:/etc/*'}", "H118", "1:16"),
    ],
)
def test_matrices_that_are_refused(tmp_path: Path, matrix: str, code: str, where: str) -> None:
    """An axis must have values, and a glob stays below the repository and matches something."""
    error = refused("t.yaml", f"- {{matrix: {matrix}, prompt: x}}\n", Context(root=tmp_path))
    assert (error.code, error.where) == (code, f"t.yaml:{where}")


def test_placeholders_that_are_probably_wrong() -> None:
    """A part no path has, and a name close to an axis, are errors."""
    error = refused("t.yaml", '- {matrix: {file: [a]}, prompt: "{file.stam} {fiel}"}\n')
    assert [problem.message for problem in error.problems] == [
        "`{file.stam}` has no such part; there are stem, name, parent, suffix",
        "`{fiel}` names no axis of the matrix; write {{fiel}} to mean it literally",
    ]
    assert error.excerpt.endswith("did you mean `stem`?")


def test_a_matrix_key_needs_a_placeholder() -> None:
    """The same key for all combinations is an error that says what is missing."""
    error = refused("t.yaml", "- {matrix: {a: [1, 2]}, key: k, prompt: x}\n")
    assert (error.code, error.message) == (
        "H115",
        "the matrix gives the key `k` to several tasks: put a placeholder into it",
    )


def test_a_matrix_has_a_limit() -> None:
    """Ten thousand combinations are made, one more is refused before any is."""
    fit = ", ".join(map(str, range(100)))
    assert len(of("t.yaml", f'- {{matrix: {{a: [{fit}], b: [{fit}]}}, prompt: "{{a}} {{b}}"}}').tasks) == CAP
    over = refused("t.yaml", f"- {{matrix: {{a: [{fit}], b: [{fit}], c: [1, 2]}}, prompt: x}}")
    assert over.message == "`matrix` makes 20,000 tasks; at most 10,000 are allowed"
    huge = refused("t.yaml", f"- {{matrix: {{a: [{fit}], b: [{fit}]}}, prompt: {'x' * 30_000}}}")
    assert huge.code == "H117"


# Size


def test_yaml_aliases_cannot_grow_without_end() -> None:
    """A file of nested aliases is refused instead of filling the memory."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    error = refused("t.yaml", "\n".join(rows))
    assert (error.code, error.message) == ("H117", "aliases make this file grow beyond bounds")
    big = "- &t {prompt: x, tags: [" + "a, " * 1000 + "a]}\n" + "- *t\n" * 5000
    assert refused("t.yaml", big).code == "H117"


@pytest.mark.parametrize("piece", ["[", "- ", "{a: ", "? ", "- - "])
def test_deep_nesting_does_not_end_the_process(piece: str) -> None:
    """A hundred thousand levels are refused, where libyaml's own composer would crash."""
    assert refused("t.yaml", piece * 100_000).code in {"H110", "H117"}


@pytest.mark.parametrize("form", ["yaml", "jsonl", "toml", "md", "txt"])
def test_large_files_take_seconds(form: str) -> None:
    """A hundred thousand lines take seconds of this process, also when every task is wrong."""
    count = 100_000
    text = {
        "yaml": "".join(
            f"- key: k{i}\n  title: t\n  prompt: p {i}\n  priority: 1\n  tags: [a]\n" for i in range(count // 5)
        ),
        "jsonl": "".join(f'{{"key":"k{i}","command":["./prog","{i}"],"workspace":"none"}}\n' for i in range(count)),
        "toml": "".join(
            f'[[task]]\nkey = "k{i}"\ntitle = "t"\nprompt = "p"\ntags = ["a"]\n' for i in range(count // 5)
        ),
        "md": "".join(f"## t {i}\n\np\np\np\n" for i in range(count // 5)),
        "txt": "say hello\n" * count,
    }[form]
    started = time.process_time()
    found = of(f"t.{form}", text, each=form == "txt")
    assert len(found.tasks) in {count, count // 5}
    assert len({task.key for task in found.tasks}) == len(found.tasks)
    if form == "yaml":
        assert refused(f"t.{form}", text.replace("key", "kee")).count == len(found.tasks)
    assert time.process_time() - started < 20


# Any bytes

_PIECES = st.sampled_from(
    [
        "tasks:",
        "- ",
        "prompt: x",
        "key: a",
        "after: [a]",
        "defaults: {",
        "}",
        "]",
        "\n",
        "\n  ",
        "matrix: {a: [1, 2]}",
        "{a}",
        "[[task]]\n",
        'prompt = "x"',
        "a = 1",
        "[defaults]",
        '{"prompt": "x"}',
        '"',
        "'",
        "---\n",
        "## A\n",
        "- [ ] b\n",
        "&a ",
        "*a",
        "<<: *a",
        "!!x ",
        "\t",
        "\\",
        "\\u0000",
        "phases: [apply]",
        "\ufeff",
        "é",
        "glob:**",
        "1e999",
        "{",
        ",",
        ": ",
    ]
)
_CONTENT = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")),
    st.lists(_PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode()),
)


def check_answer(path: Path, content: bytes, *, each: bool = False) -> None:
    """Require a file with tasks, or an error that can be shown; any other exception gets through."""
    found: TaskFile | TaskFileError
    try:
        found = read(path, content, each=each)
    except TaskFileError as error:
        found = error
    if isinstance(found, TaskFile):
        assert found.tasks
        assert len({(task.batch, task.key) for task in found.tasks}) == len(found.tasks)
    else:
        assert all(line.isprintable() for line in found.lines())
        assert found.where.startswith(str(path))


@given(content=_CONTENT, suffix=st.sampled_from(["yaml", "toml", "jsonl", "md", "txt", "each", ""]))
def test_any_bytes_give_tasks_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    """Whatever a file holds, the answer is a TaskFile or a TaskFileError that can be shown."""
    check_answer(tmp_path_factory.getbasetemp() / f"t.{suffix}", content, each=suffix == "each")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "glob:*", "{a}", "apply", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("a"), inner, max_size=3),
    max_leaves=6,
)


@given(tasks=st.lists(st.dictionaries(st.sampled_from([*KEYS, "other"]), _VALUES, max_size=5), min_size=1, max_size=4))
def test_any_values_give_tasks_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[dict[str, object]]
) -> None:
    """Whatever stands behind the keys of tasks, the answer is a TaskFile or a TaskFileError."""
    content = "\n".join(json.dumps(task) for task in tasks).encode()
    check_answer(tmp_path_factory.getbasetemp() / "t.jsonl", content)


# The table of keys


def test_every_key_reaches_the_task() -> None:
    """Each row of the table is a field of NewTask, or one of the three that become something else."""
    fields = set(NewTask.__dataclass_fields__)
    assert {key.field for key in KEYS.values()} - fields == {"prompt_file", "matrix"}
    assert fields - {key.field for key in KEYS.values()} == set()


def test_the_schema_follows_the_table() -> None:
    """The JSON Schema names every key, forbids others and is plain JSON."""
    found = json.loads(json.dumps(schema()))
    assert set(found["$defs"]["task"]["properties"]) == set(KEYS)
    assert found["$defs"]["task"]["additionalProperties"] is False
    assert "key" not in found["$defs"]["defaults"]["properties"]
    assert found["$defs"]["task"]["properties"]["phases"]["items"] == {"enum": ["apply", "test"]}
    assert all(one["description"] for one in found["$defs"]["task"]["properties"].values())
