"""What every error code means, for `hive help H230`; a code is never reused for another meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CODES: Mapping[str, str] = MappingProxyType(
    {
        "H101": (
            "A setting has a name that Hive does not know, in hive.toml, pyproject.toml, a HIVE_* variable or a "
            "flag. `hive config show` lists all settings; the error names the one that was probably meant."
        ),
        "H102": (
            "A setting has a value it cannot have. The error says what it takes and where the value stands. `hive"
            " config show --origin` prints every value with the place it comes from."
        ),
        "H103": "A settings file cannot be read: it is no valid TOML, not UTF-8, too large, or not readable by you.",
        "H104": (
            "A profile does not exist, or profiles inherit each other in a circle. Profiles are tables "
            "[profile.NAME] in hive.toml, chosen with --profile NAME or HIVE_PROFILE."
        ),
        "H105": (
            "The setting `branch_prefix` would make branch names that git refuses. Use letters, digits and "
            "slashes, such as hive/."
        ),
        "H110": (
            "A task file cannot be read in its format. The format follows the suffix: .yaml, .toml, .jsonl, .md; "
            "with --each every line is a task. Nothing was queued."
        ),
        "H111": (
            "A task file has a key that does not exist, or in a place where it cannot stand. `hive config schema`"
            " prints all keys as a JSON Schema. Nothing was queued."
        ),
        "H112": (
            "A task waits, with `after:`, for a key that no task of its batch has, neither in the file nor in the"
            " queue. Nothing was queued."
        ),
        "H113": "Tasks of a file wait for each other in a circle, so none could ever start. Nothing was queued.",
        "H114": "A key of a task file has a value it cannot have. The error says what it takes. Nothing was queued.",
        "H115": (
            "A key stands twice in a task file: two tasks with one key, or one setting given twice. Nothing was queued."
        ),
        "H116": (
            "A task asks for nothing: it has no prompt, command or script, or the file has no tasks. Nothing was "
            "queued."
        ),
        "H117": (
            "A task file, or something in it, is larger than can be handled: a prompt may have 10 MB, which is "
            "what the claude CLI takes. Nothing was queued."
        ),
        "H118": "A path in a task file leads out of the directory it must stay in. Nothing was queued.",
        "H119": (
            "The matrix of a task file cannot be expanded: an axis is empty or has a wrong name, a placeholder "
            "names no axis, or it makes too many tasks. Nothing was queued."
        ),
        "H120": "A phase is named that this version of Hive does not work. It works apply and test.",
        "H121": "There is no agent of this name. Agents are claude, command and scripted.",
        "H122": "A script for the scripted agent has a line that makes no sense. Nothing was queued.",
        "H123": (
            "The file that `prompt_file` names cannot be read. Paths are relative to the task file. Nothing was queued."
        ),
        "H130": (
            "There is no task with this id or key. `hive ls` lists tasks; ids are numbers, states need an @ in "
            "front of them, as in @failed."
        ),
        "H131": "A selector or filter cannot be understood. `hive help selectors` explains them.",
        "H132": (
            "A command that is about one task was given a selector that means none or several. `hive ls SELECTOR`"
            " shows which."
        ),
        "H133": (
            "A command would change more than one task and nobody said yes. On a terminal Hive asks; elsewhere, "
            "or with --no-input, add --yes. --dry-run shows which tasks it would be. Nothing was changed."
        ),
        "H134": (
            "The command makes sense for none of the tasks in the state they are in: a completed task cannot be "
            "cancelled, a queued one needs no retry. Nothing was changed."
        ),
        "H135": (
            "`hive set` changes what a running engine can change: agents=N. Everything else is a setting that "
            "counts when the engine starts."
        ),
        "H136": "--timeout takes a duration: 90s, 10m, 2h, or a number of seconds.",
        "H137": (
            "A task has the phase test, but neither the task nor the settings have a test command. Nothing was queued."
        ),
        "H138": (
            "A task has nothing its agent could do: the agent claude needs a prompt, command a command line, "
            "scripted a script. Nothing was queued."
        ),
        "H139": "A task's script has a line that makes no sense. Nothing was queued.",
        "H140": (
            "A verb or option does not exist, or is used in a way it does not work. `hive --help` lists the "
            "verbs, `hive VERB --help` the options of one."
        ),
        "H141": "`hive demo --dir` makes a directory of its own and touches none that is there.",
        "H142": "An option of `hive add` has a value it cannot have. Nothing was queued.",
        "H143": "The task has no such run, or has not run yet. `hive show TASK` lists its runs.",
        "H144": (
            "The task has no branch to show a difference of: it has not started, or its workspace is no git worktree."
        ),
        "H145": "There is no such help topic. `hive help` lists them.",
        "H201": (
            "The claude CLI is not on PATH. Install it with npm install -g @anthropic-ai/claude-code, run "
            "`claude` once to log in, then `hive doctor`. The setting `claude` names another program or path. "
            "Nothing was queued."
        ),
        "H210": (
            "Tasks work in git worktrees, and there is no git repository here. Use `git init`, `hive -C DIR`, or "
            "tasks with the workspace fresh or none."
        ),
        "H211": (
            "The repository is bare or has no commit yet, so that no branch can start from it. Make a first commit."
        ),
        "H212": (
            "The base a task is to start from is no commit of the repository. Name a branch, tag or commit that "
            "is there, or fetch it first."
        ),
        "H213": "git is missing or older than 2.31. Install or upgrade it.",
        "H214": (
            "A git command took too long and was stopped. Nothing is lost; look for a slow or full disk, or for a"
            " hanging network disk."
        ),
        "H215": (
            "A git operation on a task's workspace failed. What the workspace held is still there; the error says"
            " what git said."
        ),
        "H216": "Another process holds a lock on a workspace or repository and did not let go. Nothing is lost.",
        "H217": (
            "The agent left an unfinished merge or rebase in its worktree, so its work cannot be sealed as a "
            "commit. The worktree is as the agent left it."
        ),
        "H218": (
            "The agent's work is not on the branch of its task: it switched branches or moved HEAD. The worktree "
            "is as the agent left it."
        ),
        "H220": (
            "Another engine works this queue; there is one per queue and machine. Watch it with `hive wait` or "
            "`hive status`, or stop it with `hive stop`."
        ),
        "H221": (
            "The engine that a Python program started ended before it could say how it went. Its own words follow."
        ),
        "H222": (
            "The engine's processes died so often that it gave up. The queue is whole: `hive run` goes on when "
            "the cause, which it names, is gone."
        ),
        "H230": (
            "There is no queue where Hive looks: .hive/hive.db at the root of the repository, or what --db, "
            "HIVE_DB or hive.toml say. `hive init` or `hive add` make one; commands that only read do not."
        ),
        "H231": "A file or directory cannot be used; the error names it and says what the system said.",
        "H232": ("A run left no output on this machine: it ran elsewhere, never started a process, or was cleaned up."),
        "H233": "The directory the command was started in was deleted. Change to one that exists.",
        "H301": "The queue's database is busy, or was closed. Run the same command again; nothing is lost.",
        "H302": (
            "The queue was written by a newer Hive whose schema this one does not know. Upgrade; nothing was touched."
        ),
        "H303": "This is not the URL of a queue. Use sqlite:///PATH; an absolute path takes four slashes.",
        "H304": (
            "The queue lies on a network file system, whose locks lose data. Put it on a local disk with --db or `db`."
        ),
        "H305": "The queue cannot be written: its directory is read-only or belongs to somebody else.",
        "H306": (
            "The queue's file is damaged. Put a backup in its place, or move it away and start anew; branches and"
            " worktrees of tasks are not touched by that."
        ),
        "H307": "The file is an SQLite database, but no Hive queue. Name another with --db.",
        "H308": "The disk is full. Free some space and go on; nothing that was acknowledged is lost.",
        "H309": "The database refused a write that contradicts what it holds. This is a bug: report it.",
        "H310": (
            "The queue's file was removed or replaced by another while an engine worked it. What was recorded went into"
            " the file that is gone. Branches and worktrees are as the agents left them."
        ),
        "H900": (
            "A bug in Hive. The queue is as it was: every change is one transaction. Run the same command with -v"
            " and report what it prints."
        ),
    }
)
"""One paragraph for each code."""
