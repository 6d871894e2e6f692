from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.agent import AgentEvent, LimitSeen, Said
from hive.agent.claude_endings import Exit, outcome_of
from hive.agent.claude_messages import clean
from hive.agent.claude_stream import Stream, readable
from hive.agent.process import LineFramer
from hive.model import Errored, Limited, Outcome, Succeeded, TimedOut, Usage

DATA = Path(__file__).parent.parent / "data" / "claude"
TIMED_OUT = TimedOut(which="total", after_s=420.0)


@cache
def endings() -> dict[str, dict[str, Any]]:
    """Return what is known of each recorded case: class, exit code, stderr."""
    found: dict[str, dict[str, Any]] = json.loads((DATA / "endings.json").read_text("utf-8"))
    return found


def recorded(case: str) -> bytes:
    path = DATA / f"{case}.jsonl"
    return path.read_bytes() if path.exists() else b""


def play(data: bytes, *, spent: Usage = Usage(), events: list[AgentEvent] | None = None) -> Stream:
    stream, framer = Stream(spent), LineFramer()
    for line in framer.feed(data) + framer.flush():
        said = stream.read(line)
        if events is not None:
            events.extend(said)
    return stream


def judged(case: str, *, data: bytes | None = None, spent: Usage = Usage()) -> Outcome:
    ending = endings()[case]
    stopped = TIMED_OUT if ending["class"] == "timed_out" else None
    stream = play(recorded(case) if data is None else data, spent=spent)
    return outcome_of(stream, Exit(ending["exit_code"], ending["stderr"], stopped))


def kind_of(outcome: Outcome) -> str:
    """Return the class of an outcome, in the words of the recordings."""
    match outcome:
        case Succeeded():
            return "ok"
        case Limited():
            return "rate_limited"
        case TimedOut():
            return "timed_out"
        case Errored(code="account", retryable=False):
            return "fatal_account"
        case Errored(code="config" | "session", retryable=False):
            return "fatal_config"
        case Errored(code="max_turns", retryable=True):
            return "limit_turns"
        case Errored(code="budget", retryable=False):
            return "limit_budget"
        case Errored(code="signal" | "no_result", retryable=True):
            return "killed"
        case Errored(retryable=True):
            return "retryable"
        case Errored(retryable=False):
            return "fatal_request"
        case _:
            return type(outcome).__name__


@pytest.mark.parametrize("case", endings())
def test_every_recorded_ending_is_judged_right(case: str) -> None:
    """Each of the recorded endings gets the outcome that its class asks for, with the exit code it had."""
    outcome = judged(case)
    assert kind_of(outcome) == endings()[case]["class"].removesuffix(", verify")
    assert outcome.exit_code == endings()[case]["exit_code"]


def test_every_recording_has_a_judgement() -> None:
    """No recorded stream lies about unused."""
    assert {path.stem for path in DATA.glob("*.jsonl")} <= set(endings())
    assert len(endings()) > 150


CODES = {
    "api_400": "bad_request",
    "api_400_too_long": "prompt_too_long",
    "api_404_model": "not_found",
    "api_413": "too_large",
    "stop_refusal": "refusal",
    "stop_max_tokens": "max_output_tokens",
    "stop_context_exceeded": "max_output_tokens",
    "api_500_exhausted": "server",
    "api_529_exhausted": "server",
    "conn_dns": "server",
    "malformed_sse": "server",
    "not_sse_html": "server",
    "hang_default_watchdog_300s": "execution",
    "schema_invalid_output": "structured_output",
    "max_turns": "max_turns",
    "max_budget": "budget",
    "no_api_key": "account",
    "api_402": "account",
    "bad_flag": "config",
    "corrupt_claude_json": "config",
    "resume_unknown": "session",
    "session_id_in_use": "session",
    "sigint_api": "no_result",
    "sigint_bash": "signal",
    "sigkill_bash": "signal",
    "sigterm_api": "signal",
}


@pytest.mark.parametrize(("case", "code"), CODES.items())
def test_errors_have_codes_that_say_what_to_do(case: str, code: str) -> None:
    """The code tells an account failure from a bad request from a server that will be back."""
    outcome = judged(case)
    assert isinstance(outcome, Errored)
    assert outcome.code == code
    assert outcome.reason


def test_reasons_are_the_words_of_the_cli() -> None:
    """People read what the CLI said: in its result, in its list of errors, or on stderr."""
    said = {case: judged(case) for case in ("api_401", "max_turns", "bad_flag", "sighup_api")}
    reasons = {case: outcome.reason for case, outcome in said.items() if isinstance(outcome, Errored)}
    assert reasons == {
        "api_401": "Invalid API key · Fix external API key",
        "max_turns": "Reached maximum number of turns (2)",
        "bad_flag": "error: unknown option '--no-such-flag'",
        "sighup_api": "claude was ended by SIGHUP",
    }


@pytest.mark.parametrize("case", endings())
def test_a_stream_cut_anywhere_is_still_judged(case: str) -> None:
    """A process killed at any moment leaves an outcome, and never a success before the result was said."""
    data = recorded(case)
    ends = [at + 1 for at, byte in enumerate(data) if byte == 0x0A]
    starts = [0, *ends[:-1]]
    cuts = {0, *ends, *((start + end) // 2 for start, end in zip(starts, ends, strict=False))}
    for cut in cuts:
        stream = play(data[:cut])
        outcome = outcome_of(stream, Exit(-9))
        if b'"type":"result"' not in data[:cut]:
            assert isinstance(outcome, Errored | Limited)
            assert outcome.usage == Usage()


def test_a_result_stands_though_the_process_had_to_be_stopped() -> None:
    """A process that would not leave after its result was stopped; its work is done."""
    outcome = judged("bg_bash_holds_process")
    assert isinstance(outcome, Succeeded)
    assert outcome.exit_code == 143
    late = outcome_of(play(recorded("success_stream")), Exit(143, stopped=TIMED_OUT))
    assert isinstance(late, Succeeded)


def test_a_process_ended_in_a_later_turn_has_not_succeeded() -> None:
    """The success of the first turn does not count when the second one was cut off."""
    first, second = recorded("bg_bash_two_results").split(b'"type":"result"', 1)
    begun = first + b'"type":"result"' + second[: second.rindex(b"\n", 0, second.rindex(b'"type":"result"'))]
    killed = outcome_of(play(begun), Exit(-9))
    assert isinstance(killed, Errored)
    assert killed.code == "signal"
    assert outcome_of(play(begun), Exit(None, stopped=TIMED_OUT)) == TimedOut(
        which="total", after_s=420.0, usage=play(begun).usage, session_id=play(begun).session_id
    )


def test_of_several_results_the_last_one_counts() -> None:
    """Background work gives a second result; cost is that of both."""
    outcome = judged("bg_bash_two_results")
    assert outcome.usage.cost_usd == pytest.approx(0.075434)


def test_usage_is_taken_by_class_from_the_models() -> None:
    """Tokens of all four classes and the cost come from the result, never from the messages before it."""
    usage = judged("success_usage_cache").usage
    assert usage.cost_usd == pytest.approx(0.00772)
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert usage.cache_read_tokens > 0
    assert usage.cache_creation_tokens > 0


def test_a_resumed_run_reports_only_its_share() -> None:
    """What an earlier run of the session reported is not counted again."""
    first = judged("resume_after_sigkill_in_bash").usage
    assert first.cost_usd == pytest.approx(0.025086)
    second = judged("resume_second_time", spent=first).usage
    assert second.cost_usd == pytest.approx(0.02514)
    assert second.input_tokens == 12520
    assert second.output_tokens == 10


def test_a_resumed_run_reports_what_a_stopped_one_could_not() -> None:
    """A run stopped by TERM gave no result, but the session remembers its cost: the next run brings it to light."""
    usage = judged("resume_after_sigterm").usage
    assert usage.cost_usd == pytest.approx(0.074974)


def test_an_older_cli_that_says_only_totals_is_understood() -> None:
    """Without the share since the last result, it is the total less what was reported before."""
    stream = play(recorded("v2_1_197_tools_stream"), spent=Usage(input_tokens=1000, cost_usd=0.01))
    assert stream.result is not None
    assert stream.result.since is None
    assert stream.usage.input_tokens == stream.result.total.input_tokens - 1000
    assert stream.usage.cost_usd == pytest.approx(stream.result.total.cost_usd - 0.01)


def test_a_used_up_limit_says_when_it_ends() -> None:
    """The reset time of the rejected window, in milliseconds; none when only a status was said."""
    told, untold = judged("oauth_limit_rejected"), judged("api_429_exhausted_no_header")
    assert isinstance(told, Limited)
    assert told.resets_at_ms == 1795351947000
    assert isinstance(untold, Limited)
    assert untold.resets_at_ms is None


def test_usage_windows_are_told_also_on_success() -> None:
    """Every window that the account reports is passed on with its share and its reset."""
    events: list[AgentEvent] = []
    play(recorded("oauth_limit_warning"), events=events)
    limits = [event for event in events if isinstance(event, LimitSeen)]
    assert limits == [
        LimitSeen("five_hour", rejected=False, resets_at_ms=1795351947000, utilization=0.93),
        LimitSeen("seven_day", rejected=False, resets_at_ms=1795748347000, utilization=0.3),
    ]


def test_of_two_used_up_windows_the_later_reset_counts() -> None:
    """Going on when only the shorter window has reset would fail again."""
    windows = {
        "five_hour": {"utilization": 1, "resetsAt": 1795351947, "status": "rejected"},
        "seven_day": {"utilization": 1, "resetsAt": 1795748347, "status": "rejected"},
    }
    info = {"status": "rejected", "resetsAt": 1795351947, "unifiedWindows": windows}
    stream = play(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}).encode())
    assert stream.limit_resets_at_ms == 1795748347000


def test_work_is_told_as_chatter() -> None:
    """Start, text and tool calls are told in order, each short."""
    events: list[AgentEvent] = []
    play(recorded("tools_stream"), events=events)
    assert events == [
        Said("agent.started", {"model": "claude-sonnet-5-5", "version": "2.1.330"}),
        Said("agent.text", {"text": "I will write a file."}),
        Said("agent.tool", {"name": "Write", "input": "/project/hello.txt"}),
        Said("agent.tool", {"name": "Bash", "input": "cat hello.txt; echo to-stderr >&2; pwd"}),
        Said("agent.text", {"text": "Done."}),
    ]


def test_retries_are_told_with_their_cause() -> None:
    """A retry says its number, its wait and the status it follows."""
    events: list[AgentEvent] = []
    stream = play(recorded("api_529_then_ok"), events=events)
    retries = [event.data for event in events if isinstance(event, Said) and event.kind == "agent.retry"]
    assert [(data["attempt"], data["status"]) for data in retries] == [(1, 529), (2, 529)]
    assert stream.retrying is None


def test_refused_tools_are_told_and_stand_in_the_summary() -> None:
    """A success whose work was refused can be told from one that did it."""
    events: list[AgentEvent] = []
    play(recorded("tools_denied"), events=events)
    assert [event.kind for event in events if isinstance(event, Said)].count("agent.denied") == 1
    outcome = judged("tools_denied")
    assert isinstance(outcome, Succeeded)
    assert outcome.summary == "I was not allowed.\n\n[1 tool calls were refused: Bash]"


def test_chatter_is_short_clean_and_without_keys() -> None:
    """Escape sequences, control characters and keys never reach events; half a megabyte becomes 500 characters."""
    secret = "hunter2-very-secret"
    told = f"\x1b[31mred\x1b[0m\x07 key=sk-ant-api03-abcDEF_123 {secret} \u202e\ud83d" + "x" * 500_000
    line = json.dumps({"type": "assistant", "message": {"content": [{"type": "text", "text": told}]}}).encode()
    [event] = Stream(secrets=[secret]).read(line)
    assert isinstance(event, Said)
    shown = event.data["text"]
    assert isinstance(shown, str)
    assert shown.startswith("red key=[redacted] [redacted] ?xxx")
    assert len(shown) == 500


def test_outcomes_hold_no_keys() -> None:
    """What the CLI printed to stderr is shown to people, but not the key in it."""
    outcome = outcome_of(Stream(), Exit(1, "bad key sk-ant-api03-abcdef and TOKEN-12345"), ["TOKEN-12345"])
    assert isinstance(outcome, Errored)
    assert outcome.reason == "bad key [redacted] and [redacted]"


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\xff\xfe\x80 rubbish",
        b"[1, 2, 3]",
        b'"a string"',
        b"null",
        b'{"type": 7}',
        b'{"type": "galaxy_update", "foo": [1]}',
        b'{"type": "result"',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        "t\u00e9st".encode("utf-16"),
    ],
)
def test_lines_nobody_understands_are_counted(line: bytes) -> None:
    """Half a line, rubbish, or a type of tomorrow: counted, and nothing else happens."""
    stream = Stream()
    assert stream.read(line) == []
    assert stream.skipped == 1
    assert stream.lines == 0


@pytest.mark.parametrize("kind", ["system", "assistant", "user", "result", "rate_limit_event", "stream_event"])
@pytest.mark.parametrize("junk", [None, True, 1e308, -1, "x", [], [None], {}, {"a": {}}, 10**400])
def test_known_types_with_strange_contents_do_not_crash(kind: str, junk: object) -> None:
    """Whatever stands where a text, a number or an object should be, the reader and the judge go on."""
    names = (
        "message content subtype session_id result errors is_error modelUsage model_usage_since_last_result "
        "rate_limit_info unifiedWindows resetsAt attempt error_status error permission_denials api_error_status"
    )
    message: dict[str, object] = dict.fromkeys(names.split(), junk)
    inner = {"message": {"content": [junk, {"type": "tool_use", "input": junk, "name": junk}]}}
    for shape in (message, message | inner, message | {"modelUsage": {"m": dict.fromkeys(("costUSD",), junk)}}):
        for subtype in ("init", "api_retry", "success", "error_during_execution"):
            line = json.dumps({"type": kind, **shape, "subtype": subtype}).encode()
            stream = play(line)
            outcome_of(stream, Exit(1, ""))
            list(readable([line]))


def test_five_megabyte_lines_arrive_whole() -> None:
    """There is no limit of 64 KiB or 1 MiB to a line; the summary is cut, the stream is not."""
    told = "x" * 5_000_000
    lines = [
        {"type": "assistant", "message": {"content": [{"type": "text", "text": told}]}},
        {"type": "result", "subtype": "success", "is_error": False, "result": told},
    ]
    framer, stream = LineFramer(), Stream()
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    for at in range(0, len(data), 256 * 1024):
        for line in framer.feed(data[at : at + 256 * 1024]):
            stream.read(line)
    outcome = outcome_of(stream, Exit(0))
    assert isinstance(outcome, Succeeded)
    assert stream.lines == 2
    assert len(outcome.summary) == 2000


def test_a_lone_surrogate_survives_and_can_be_stored() -> None:
    """The CLI passes half a character on as it got it; what Hive keeps can be encoded."""
    events: list[AgentEvent] = []
    stream = play(recorded("unicode"), events=events)
    outcome = outcome_of(stream, Exit(0))
    assert isinstance(outcome, Succeeded)
    repr(events).encode()
    outcome.summary.encode()
    "\n".join(readable(recorded("unicode").split(b"\n"))).encode()


@given(data=st.data())
def test_events_and_outcome_do_not_depend_on_how_the_bytes_arrive(data: st.DataObject) -> None:
    """Any split of the same bytes gives the same events and the same outcome."""
    stream_bytes = recorded(data.draw(st.sampled_from(["tools_stream", "unicode", "api_401", "bg_bash_two_results"])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream_bytes)), max_size=8)))
    whole: list[AgentEvent] = []
    expected = outcome_of(play(stream_bytes, events=whole), Exit(0))
    framer, stream, seen = LineFramer(), Stream(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True):
        for line in framer.feed(stream_bytes[start:end]):
            seen += stream.read(line)
    for line in framer.flush():
        seen += stream.read(line)
    assert seen == whole
    assert outcome_of(stream, Exit(0)) == expected


@given(value=st.text(max_size=300), limit=st.integers(1, 80))
def test_clean_text_is_always_printable_and_within_its_limit(value: str, limit: int) -> None:
    """Whatever goes in, what comes out can be encoded, holds no escape and is no longer than asked."""
    shown = clean(value, limit)
    assert len(shown) <= limit
    shown.encode()
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def _rendered(case: str) -> Iterator[str]:
    return readable(recorded(case).split(b"\n"))


CREATED = (
    "File created successfully at: /project/hello.txt (file state is current in your context — no need to Read it back)"
)


def test_a_recorded_stream_is_readable() -> None:
    """Text, tool calls, their results and the end, one after the other."""
    assert list(_rendered("tools_stream")) == [
        "* claude 2.1.330, claude-sonnet-5-5, session 081182a6-3cc4-4adc-a21b-896201c0a7e5",
        "I will write a file.",
        "> Write: /project/hello.txt",
        f"  | {CREATED}",
        "> Bash: cat hello.txt; echo to-stderr >&2; pwd",
        "  | hello",
        "  | to-stderr",
        "  | /project",
        "Done.",
        "= done (3 turns, 1.6 s, $0.0752)",
    ]


def test_failures_are_readable() -> None:
    """Retries, refusals and failed results stand out; a line that is no message is shown safely."""
    assert any(line.startswith("! retry 1 of 2 in ") and line.endswith(": 401") for line in _rendered("api_401"))
    assert list(_rendered("api_401"))[-1].endswith("): Invalid API key · Fix external API key")
    assert any(line.startswith("! refused: ") for line in _rendered("tools_denied"))
    assert "! usage limit reached" in _rendered("oauth_limit_rejected")
    assert list(readable([b"\x1b]0;title\x07plain\x1b[2J text", b"", b'{"half": '])) == ["plain text", '{"half":']


@pytest.mark.parametrize("case", endings())
def test_every_recording_can_be_rendered(case: str) -> None:
    """No recorded stream makes the renderer fail or emit an escape."""
    assert "\x1b" not in "\n".join(_rendered(case))
