"""The table of settings: name, shape and meaning of each. Files, environment, flags, template and docs follow it.

Their defaults stand in `hive.config.Settings`; how layers combine in `hive.config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hive.values import (
    PERMISSION_MODES,
    Kind,
    amount,
    argv,
    choice,
    counts,
    duration,
    flag,
    optional,
    phases,
    several,
    size,
    text,
    variable_names,
    whole,
    word,
)

AGENTS = ("claude", "command", "scripted")
_DAY_S = 86_400.0
_MONTH_S = 30 * _DAY_S


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        field: Name in `Settings`, with its unit.
        key: Name in TOML, with dots for tables; values carry their unit themselves.
        kind: What may be written.
        doc: One line for people, without the default.
        group: Heading it stands under in the template.
    """

    field: str
    key: str
    kind: Kind[object]
    doc: str
    group: str

    @property
    def variable(self) -> str:
        """Return the name of its environment variable."""
        return "HIVE_" + self.key.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """Return the command line option people know it by."""
        return "--" + self.key.replace(".", "-").replace("_", "-")


_WORK, _AGENT, _TIME, _AGAIN, _PLACE, _ENGINE = (
    "what a task goes through",
    "the agent",
    "how long things may take",
    "trying again",
    "where things are",
    "the engine",
)

SETTINGS: tuple[Setting, ...] = (
    Setting("agents", "agents", whole(1, 10_000), "agents at work at the same time", _WORK),
    Setting("phases", "phases", phases(), "what a task goes through; with a test command also test", _WORK),
    Setting("test", "test", argv(from_string=True), "command that must exit with 0; run without a shell", _WORK),
    Setting("base", "base", optional(word("a commit or branch")), "start of branches; none: what is there", _WORK),
    Setting("branch_prefix", "branch_prefix", word("the start of a branch name"), "start of branch names", _WORK),
    Setting("agent", "agent", choice(*AGENTS), "who does the work of tasks that name nobody", _AGENT),
    Setting("claude", "claude", word("a path or name of a program"), "the claude CLI: name on PATH, or path", _AGENT),
    Setting("model", "model", optional(word("the name of a model")), "model; none: the CLI's own", _AGENT),
    Setting("permission_mode", "permission_mode", choice(*PERMISSION_MODES), "what an agent may do unasked", _AGENT),
    Setting("allowed_tools", "allowed_tools", several(text("a permission rule")), "tools it may use unasked", _AGENT),
    Setting("max_turns", "max_turns", optional(whole(1, 10_000)), "longest conversation of a run", _AGENT),
    Setting("task_budget_usd", "task_budget", optional(amount(100_000)), "most dollars a run may cost", _AGENT),
    Setting("pass_env", "pass_env", variable_names(), "environment variables agents see beside the usual", _AGENT),
    Setting("role_limits", "limits.role", counts(1, 10_000), "agents at the same time per role", _AGENT),
    Setting("timeout_s", "timeout", optional(duration(0.001, _MONTH_S)), "longest run of an agent", _TIME),
    Setting("idle_timeout_s", "idle_timeout", optional(duration(0.001, _MONTH_S)), "its longest silence", _TIME),
    Setting("test_timeout_s", "test_timeout", duration(0.001, _MONTH_S), "longest run of the test command", _TIME),
    Setting("grace_s", "grace", duration(0, 3600), "between TERM and KILL", _TIME),
    Setting("drain_s", "drain", duration(0, _DAY_S), "what running work gets after the first Ctrl-C", _TIME),
    Setting("retries", "retries", whole(0, 1000), "attempts after the first one in each phase", _AGAIN),
    Setting("rounds", "rounds", whole(0, 1000), "times a red test sends the work back", _AGAIN),
    Setting("backoff_base_s", "backoff_base", duration(0, _DAY_S), "longest wait before the second attempt", _AGAIN),
    Setting("backoff_cap_s", "backoff_cap", duration(0, _DAY_S), "longest wait before any attempt", _AGAIN),
    Setting("limit_wait_s", "limit_wait", duration(0, _DAY_S), "wait after a limit that does not say its end", _AGAIN),
    Setting("same_failure_stop", "same_failure_stop", whole(1, 1000), "alike failures in a row that ask you", _AGAIN),
    Setting("repo", "repo", text("a path"), "git repository; found upward from where you are", _PLACE),
    Setting(
        "db",
        "db",
        text("a database URL"),
        "the queue: sqlite:///PATH or a path; all else is in PATH.d",
        _PLACE,
    ),
    Setting("cores", "cores", optional(whole(1, 1024)), "processes that carry agents; none: as many as help", _ENGINE),
    Setting("sync", "sync", flag(), "one process, no fork", _ENGINE),
    Setting("lease_s", "lease", duration(0.1, _DAY_S), "silence after which a process is presumed dead", _ENGINE),
    Setting("renew_s", "renew", duration(0.01, _DAY_S), "between signs of life; less than half the lease", _ENGINE),
    Setting("beat_s", "beat", duration(0.01, 60), "longest wait before the queue is looked at again", _ENGINE),
    Setting("output_limit_bytes", "output_limit", size(1024, 1 << 50), "largest output of a run", _ENGINE),
)


def setting(name: str) -> Setting | None:
    """Return the setting with this field or key."""
    return next((one for one in SETTINGS if name in {one.key, one.field}), None)
