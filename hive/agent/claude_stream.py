"""Reads what one process of the claude CLI prints, line by line: chatter out, and what its ending will be judged by.

Pure: no files, no clock, no process. What an ending means is in `hive.agent.claude_endings`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from hive.agent import AgentEvent, LimitSeen, Said
from hive.agent.claude_messages import (
    KNOWN_TYPES,
    Result,
    blocks,
    clean,
    items,
    number,
    parse,
    record,
    result_of,
    result_text,
    status,
    text,
    tool_input,
)
from hive.model import Usage

_SAID_CHARACTERS = 500


class Stream:
    """What one process has said so far.

    Args:
        spent: What earlier runs of a resumed session reported; nothing for a new session.
        secrets: Values that must not appear in chatter.

    Attributes:
        lines: Lines that held a message.
        skipped: Lines that held none, or one of a type this reader does not know.
        session_id: Session as the CLI names it.
        result: The last result event. Several in one process are normal; the last one counts.
        turn_open: More was said after the last result: the process began another turn.
        error: Kind of the last API failure in the CLI's words: ``rate_limit``, ``authentication_failed``, ...
        retrying: HTTP status of the failure the CLI is waiting to try again after, while it waits.
        retry_attempt: Number of that retry; the CLI repeats the message while it waits, with the same number.
        limit_rejected: The account's usage limit, as last reported, is used up.
        limit_resets_at_ms: When that ends; None when nobody said.
    """

    def __init__(self, spent: Usage = Usage(), secrets: Collection[str] = ()) -> None:
        self.lines = 0
        self.skipped = 0
        self.session_id: str | None = None
        self.result: Result | None = None
        self.turn_open = False
        self.error = ""
        self.retrying: int | None = None
        self.retry_attempt = 0
        self.limit_rejected = False
        self.limit_resets_at_ms: int | None = None
        self._spent = spent
        self._since = Usage()
        self._secrets = tuple(secrets)

    @property
    def settled(self) -> bool:
        """Whether the last thing of consequence was a result."""
        return self.result is not None and not self.turn_open

    @property
    def usage(self) -> Usage:
        """This run's share of what the session consumed; a run without a result reports nothing.

        Results say what came since the one before, and what the whole session consumed. The latter, less what earlier
        runs reported, is larger when a run before was stopped by TERM: its consumption was recorded but never reported.
        """
        return _larger(self._since, _less(self.result.total, self._spent)) if self.result else Usage()

    def read(self, line: bytes) -> list[AgentEvent]:
        """Take one line in and return what is worth telling; never raises."""
        if not line.strip():
            return []
        message = parse(line)
        kind = text(message.get("type")) if message else ""
        if message is None or kind not in KNOWN_TYPES:
            self.skipped += 1
            return []
        self.lines += 1
        self.session_id = text(message.get("session_id")) or self.session_id
        match kind:
            case "system":
                return self._system(message)
            case "assistant":
                return self._assistant(message)
            case "result":
                self._result(message)
            case "rate_limit_event":
                return self._limits(record(message.get("rate_limit_info")))
            case _:  # tools' results, parts of messages, control messages
                pass
        return []

    def _system(self, message: Mapping[str, object]) -> list[AgentEvent]:
        match text(message.get("subtype")):
            case "init":
                self.turn_open = True
                version = self._clean(message.get("claude_code_version"))
                return [Said("agent.started", {"model": self._clean(message.get("model")), "version": version})]
            case "api_retry":
                return [self._retry(message)]
            case "permission_denied":
                told = self._clean(message.get("message"))
                return [Said("agent.denied", {"name": self._clean(message.get("tool_name")), "text": told})]
            case "model_fallback":
                return [Said("agent.fallback", {"text": self._clean(message.get("content"))})]
            case _:  # hooks, counters, status lines
                return []

    def _retry(self, message: Mapping[str, object]) -> AgentEvent:
        self.retrying = status(message.get("error_status"))
        self.retry_attempt = int(number(message.get("attempt")))
        said = {
            "attempt": self.retry_attempt,
            "of": int(number(message.get("max_retries"))),
            "wait_ms": int(number(message.get("retry_delay_ms"))),
            "status": self.retrying,
            "error": self._clean(message.get("error")),
        }
        return Said("agent.retry", said)

    def _assistant(self, message: Mapping[str, object]) -> list[AgentEvent]:
        self.turn_open = True
        self.retrying = None
        self.error = text(message.get("error"))
        return [said for block in blocks(message) if (said := self._said(block)) is not None]

    def _said(self, block: Mapping[str, object]) -> AgentEvent | None:
        match text(block.get("type")):
            case "text" if told := self._clean(block.get("text")):
                return Said("agent.error" if self.error else "agent.text", {"text": told})
            case "tool_use":
                name = self._clean(block.get("name"))
                return Said("agent.tool", {"name": name, "input": self._clean(tool_input(block))})
            case _:
                return None

    def _result(self, message: Mapping[str, object]) -> None:
        self.result = result_of(message)
        self.turn_open = False
        self.retrying = None
        self._since = self._since + (self.result.since or Usage())

    def _limits(self, info: Mapping[str, object]) -> list[AgentEvent]:
        windows = {name: record(window) for name, window in record(info.get("unifiedWindows")).items()}
        if not windows:
            windows = {text(info.get("rateLimitType")) or "unknown": info}
        seen = [_limit_seen(name, window) for name, window in windows.items()]
        self.limit_rejected = _rejected(info) or any(limit.rejected for limit in seen)
        resets = [limit.resets_at_ms for limit in seen if limit.rejected and limit.resets_at_ms]
        # With two windows used up, only the end of the later one helps.
        self.limit_resets_at_ms = max(resets, default=_resets_at_ms(info)) if self.limit_rejected else None
        return list(seen)

    def _clean(self, value: object) -> str:
        return clean(text(value), _SAID_CHARACTERS, self._secrets)


def _limit_seen(name: str, window: Mapping[str, object]) -> LimitSeen:
    share = number(window.get("utilization")) if "utilization" in window else None
    return LimitSeen(clean(name, 40), _rejected(window), _resets_at_ms(window), share)


def _rejected(window: Mapping[str, object]) -> bool:
    return text(window.get("status")) == "rejected"


def _resets_at_ms(window: Mapping[str, object]) -> int | None:
    return round(number(window.get("resetsAt")) * 1000) or None


def _less(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens - other.input_tokens,
        output_tokens=one.output_tokens - other.output_tokens,
        cache_read_tokens=one.cache_read_tokens - other.cache_read_tokens,
        cache_creation_tokens=one.cache_creation_tokens - other.cache_creation_tokens,
        cost_usd=one.cost_usd - other.cost_usd,
    )


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=max(one.input_tokens, other.input_tokens),
        output_tokens=max(one.output_tokens, other.output_tokens),
        cache_read_tokens=max(one.cache_read_tokens, other.cache_read_tokens),
        cache_creation_tokens=max(one.cache_creation_tokens, other.cache_creation_tokens),
        cost_usd=max(one.cost_usd, other.cost_usd),
    )


_BLOCK_CHARACTERS = 4000


def readable(lines: Iterable[bytes]) -> Iterator[str]:
    """Render a recorded stream for people: text, tool calls and their results; lines without newline.

    Args:
        lines: Lines of a run's ``.out`` file; what is no message is shown as it is, made safe for a terminal.
    """
    for line in lines:
        message = parse(line)
        told = _told(message) if message is not None else clean(line.decode("utf-8", "replace"), _BLOCK_CHARACTERS)
        yield from told.split("\n") if told else ()


def _told(message: Mapping[str, object]) -> str:
    match text(message.get("type")), text(message.get("subtype")):
        case "assistant" | "user", _:
            return "\n".join(told for block in blocks(message) if (told := _told_block(block)))
        case "system", "init":
            told = f"claude {text(message.get('claude_code_version'))}, {text(message.get('model'))}"
            return f"* {clean(told, 200)}, session {clean(text(message.get('session_id')), 40)}"
        case "system", "api_retry":
            cause = status(message.get("error_status")) or clean(text(message.get("error")), 100)
            counted = f"{number(message.get('attempt')):g} of {number(message.get('max_retries')):g}"
            return f"! retry {counted} in {number(message.get('retry_delay_ms')) / 1000:.1f} s: {cause}"
        case "system", "permission_denied":
            return f"! refused: {clean(text(message.get('message')), _BLOCK_CHARACTERS)}"
        case "rate_limit_event", _ if _rejected(record(message.get("rate_limit_info"))):
            return "! usage limit reached"
        case "result", _:
            return _told_result(message)
        case _:
            return ""


def _told_block(block: Mapping[str, object]) -> str:
    match text(block.get("type")):
        case "text":
            return clean(text(block.get("text")), _BLOCK_CHARACTERS)
        case "tool_use":
            return f"> {clean(text(block.get('name')), 80)}: {clean(tool_input(block), _BLOCK_CHARACTERS)}"
        case "tool_result":
            sign = "!" if block.get("is_error") is True else "|"
            shown = clean(result_text(block), _BLOCK_CHARACTERS)
            return "\n".join(f"  {sign} {line}" for line in shown.split("\n")) if shown else ""
        case _:
            return ""


def _told_result(message: Mapping[str, object]) -> str:
    result = result_of(message)
    turns, seconds = number(message.get("num_turns")), number(message.get("duration_ms")) / 1000
    spent = f"{turns:g} turns, {seconds:.1f} s, ${number(message.get('total_cost_usd')):.4f}"
    word = "failed" if result.is_error else "done"
    # The answer of a success was shown when it was said.
    told = f": {clean(result.text, _BLOCK_CHARACTERS)}" if result.is_error else ""
    refused = f", {len(items(message.get('permission_denials')))} tool calls refused" if result.denials else ""
    return f"= {word} ({spent}{refused}){told}"
