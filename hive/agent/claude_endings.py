"""What each way a process of the claude CLI can end means, as one `Outcome`.

Pure. Source of the tables: 155 recorded endings of claude 2.1.330; the tests replay them.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from hive.agent.claude_messages import Result, clean
from hive.agent.claude_stream import Stream
from hive.model import Errored, Limited, Outcome, Succeeded, TimedOut

SESSION = "session"
"""Code of a run that could not begin because its session is missing, or is there already."""

_SUMMARY_CHARACTERS = 2000
_REASON_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Exit:
    """How the process itself ended.

    Attributes:
        code: Exit code; negative: the signal that ended it; None: it would not die.
        stderr: End of what it wrote there.
        stopped: Why Hive stopped it, if it did.
    """

    code: int | None
    stderr: str = ""
    stopped: TimedOut | Errored | None = None


def outcome_of(stream: Stream, ended: Exit, secrets: Collection[str] = ()) -> Outcome:
    """Say how the run ended.

    A result that was the last word stands, whatever happened to the process afterwards: it may have been stopped
    because it would not leave. Exit code 0 without a result is no success.
    """
    outcome = _judge(stream, ended)
    return replace(
        _made_safe(outcome, secrets),
        usage=stream.usage,
        session_id=stream.session_id,
        exit_code=ended.code,
    )


def _made_safe(outcome: Outcome, secrets: Collection[str]) -> Outcome:
    match outcome:
        case Succeeded(summary=summary):
            return replace(outcome, summary=clean(summary, _SUMMARY_CHARACTERS, secrets))
        case Errored(reason=reason) | Limited(reason=reason):
            return replace(outcome, reason=clean(reason, _REASON_CHARACTERS, secrets))
        case _:
            return outcome


def _judge(stream: Stream, ended: Exit) -> Outcome:
    result = stream.result
    # A process that leaves by itself has finished its turns; one that was ended in a later turn has not.
    if result is not None and (stream.settled or (ended.code == 0 and ended.stopped is None)):
        return _judge_result(result, stream) if result.is_error else _success(result)
    if stream.retrying in _ACCOUNT_STATUSES:
        return _account(f"the API refused the credentials (status {stream.retrying})")
    if ended.stopped is not None:
        return ended.stopped
    if stream.retrying == 429:
        return Limited(stream.limit_resets_at_ms, "ended while it waited for the API's rate limit")
    return _judge_exit(stream, ended)


def _success(result: Result) -> Outcome:
    if not result.denials:
        return Succeeded(summary=result.text)
    note = f"[{len(result.denials)} tool calls were refused: {', '.join(sorted(set(result.denials)))}]"
    return Succeeded(summary=f"{result.text[: _SUMMARY_CHARACTERS - 200]}\n\n{note[:190]}")


_SUBTYPES: Mapping[str, tuple[str, bool]] = {
    "error_max_turns": ("max_turns", True),
    "error_max_budget_usd": ("budget", False),
    "error_max_structured_output_retries": ("structured_output", True),
}
_ACCOUNT_STATUSES = frozenset({401, 402, 403})
_ACCOUNT_ERRORS = frozenset({"authentication_failed", "billing_error"})
_ACCOUNT_TEXTS = ("Credit balance is too low", "Please run /login")
_TRANSIENT_4XX = frozenset({408, 409, 425})
_REQUEST_STATUSES: Mapping[int, str] = {404: "not_found", 413: "too_large"}
_REQUEST_ERRORS: Mapping[str, str] = {
    "invalid_request": "bad_request",
    "max_output_tokens": "max_output_tokens",
    "model_not_found": "not_found",
}


def _judge_result(result: Result, stream: Stream) -> Outcome:
    if result.subtype in _SUBTYPES:
        code, retryable = _SUBTYPES[result.subtype]
        return Errored(code=code, reason=result.text or code, retryable=retryable)
    if result.subtype == "error_during_execution":
        return _judge_execution(result)
    if result.status == 429 or stream.error == "rate_limit":
        return Limited(stream.limit_resets_at_ms, result.text)
    if _is_account(result, stream.error):
        return _account(result.text)
    code = _request_code(result, stream.error)
    if code:
        return Errored(code=code, reason=result.text, retryable=False)
    return Errored(code="server", reason=result.text or "the API failed without a word")


def _judge_execution(result: Result) -> Outcome:
    if "No conversation found" in result.text:
        return Errored(code=SESSION, reason=result.text, retryable=False)
    if result.bad_config:
        return Errored(code="config", reason=result.text, retryable=False)
    if result.terminal_reason.startswith("aborted"):
        return Errored(code="signal", reason=f"interrupted ({result.terminal_reason})")
    return Errored(code="execution", reason=result.text or "failed without a word")


def _is_account(result: Result, error: str) -> bool:
    told = any(result.text.startswith(words) or result.text.endswith(words) for words in _ACCOUNT_TEXTS)
    return result.status in _ACCOUNT_STATUSES or error in _ACCOUNT_ERRORS or told


def _account(reason: str) -> Outcome:
    return Errored(code="account", reason=reason, retryable=False)


def _request_code(result: Result, error: str) -> str:
    """Return the code of a request that would fail again just so, or nothing."""
    if result.stop_reason == "refusal":
        return "refusal"
    if result.terminal_reason == "prompt_too_long":
        return "prompt_too_long"
    if result.status is not None and 400 <= result.status < 500 and result.status not in _TRANSIENT_4XX:
        return _REQUEST_STATUSES.get(result.status, "bad_request")
    return _REQUEST_ERRORS.get(error, _REQUEST_ERRORS.get(result.api_error, ""))


def _judge_exit(stream: Stream, ended: Exit) -> Outcome:
    """Judge a process that gave no result."""
    name = _signal_name(ended.code)
    if name:
        return Errored(code="signal", reason=f"claude was ended by {name}")
    if "is already in use" in ended.stderr:
        return Errored(code=SESSION, reason=ended.stderr, retryable=False)
    if ended.code is not None and 0 < ended.code < 128 and not stream.lines and not stream.skipped:
        return Errored(code="config", reason=ended.stderr or f"claude exited with {ended.code}", retryable=False)
    told = f": {ended.stderr.strip()}" if ended.stderr.strip() else ""
    return Errored(code="no_result", reason=f"claude exited with {ended.code} and gave no result{told}")


def _signal_name(exit_code: int | None) -> str:
    """Return the signal a process ended by: from the kernel, or as the CLI's exit code 128 + number."""
    if exit_code is None:
        return "KILL, but would not die"
    number = -exit_code if exit_code < 0 else exit_code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if exit_code < 0 else ""
