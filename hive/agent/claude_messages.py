"""The shapes of the claude CLI's messages: bytes of one line to plain values, and text made safe to show.

Nothing here raises for what a line holds. Source of the shapes: claude 2.1.330, `--output-format stream-json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from hive.agent.output import printable
from hive.model import Usage

KNOWN_TYPES = frozenset(
    {
        "assistant",
        "command_lifecycle",
        "control_request",
        "control_response",
        "rate_limit_event",
        "result",
        "stream_event",
        "system",
        "user",
    }
)


def parse(line: bytes) -> Mapping[str, object] | None:
    """Return the message of one line; None when it is not a JSON object (half a line, a warning, rubbish)."""
    try:
        # Not json.loads(bytes): it guesses UTF-16 or UTF-32 from NUL bytes.
        value: object = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # RecursionError: nested without end
        return None
    return value if isinstance(value, dict) else None


def record(value: object) -> Mapping[str, object]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """Return a JSON array, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    """Return a string, or an empty one for anything else."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float:
    """Return a finite number >= 0, or 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        found = float(value)
    except OverflowError:  # an integer of 400 digits
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0


def status(value: object) -> int | None:
    """Return an HTTP status, or None for anything else."""
    return int(found) if 100 <= (found := number(value)) < 600 else None


def blocks(message: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the content blocks of an assistant or user message; text alone counts as one block."""
    content = record(message.get("message")).get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    yield from (record(block) for block in items(content))


def result_text(block: Mapping[str, object]) -> str:
    """Return what a tool gave back, without pictures."""
    content = block.get("content")
    return text(content) or "\n".join(text(record(part).get("text")) for part in items(content))


def tool_input(block: Mapping[str, object]) -> str:
    """Return the part of a tool call that says most about it: the command, the file, or all of it."""
    given = record(block.get("input"))
    for name in ("command", "file_path", "notebook_path", "pattern", "url", "query", "path", "description"):
        if text(given.get(name)):
            return text(given.get(name))
    return json.dumps(given) if given else ""


_KEY = re.compile(r"sk-ant-[\w-]{4,}")


def clean(value: str, limit: int, secrets: Collection[str] = ()) -> str:
    r"""Return text fit for a terminal, a log and a database.

    No escape sequences, no control characters but newline and tab, no marks that reverse the line, no lone surrogates,
    no API keys.

    Args:
        value: Any text; may be megabytes.
        limit: Longest result in characters; a longer one ends in ``…``.
        secrets: Values that must not appear, beside everything that looks like a key.
    """
    # Cut before the costly part, but far enough out that no key is cut in a way that hides it.
    found = value[: 4 * limit + 4096].encode("utf-8", "replace").decode()
    found = _KEY.sub("[redacted]", printable(found, secrets)).strip()
    return found if len(found) <= limit else found[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Result:
    """A result event.

    Attributes:
        subtype: ``success`` also when the API failed: look at `is_error` first.
        text: The answer, or the error in words.
        status: HTTP status of the API's error, if it was one.
        total: Consumption of the session, runs before this process included.
        since: Consumption since the result event before it; None in CLIs that do not say (2.1.197).
        denials: Tools that were refused for lack of permission, one entry per call.
        bad_config: The CLI could not read its own configuration.
    """

    subtype: str
    is_error: bool
    text: str
    status: int | None
    terminal_reason: str
    stop_reason: str
    api_error: str
    total: Usage
    since: Usage | None
    denials: tuple[str, ...]
    bad_config: bool


def result_of(message: Mapping[str, object]) -> Result:
    """Read a result event. A missing `is_error` counts as an error: success must be said."""
    errors = "; ".join(text(error) for error in items(message.get("errors")))
    since = message.get("model_usage_since_last_result")
    return Result(
        subtype=text(message.get("subtype")),
        is_error=message.get("is_error") is not False,
        text=text(message.get("result")) or errors,
        status=status(message.get("api_error_status")),
        terminal_reason=text(message.get("terminal_reason")),
        stop_reason=text(message.get("stop_reason")),
        api_error=text(message.get("api_error")),
        total=_usage(message.get("modelUsage")),
        since=_usage(since) if isinstance(since, dict) else None,
        denials=tuple(text(record(entry).get("tool_name")) for entry in items(message.get("permission_denials"))),
        bad_config="invalid_config_file" in message or "startup_failure_reason" in message,
    )


def _usage(by_model: object) -> Usage:
    return sum((_usage_of_model(record(entry)) for entry in record(by_model).values()), Usage())


def _usage_of_model(entry: Mapping[str, object]) -> Usage:
    return Usage(
        input_tokens=int(number(entry.get("inputTokens"))),
        output_tokens=int(number(entry.get("outputTokens"))),
        cache_read_tokens=int(number(entry.get("cacheReadInputTokens"))),
        cache_creation_tokens=int(number(entry.get("cacheCreationInputTokens"))),
        cost_usd=number(entry.get("costUSD")),
    )
