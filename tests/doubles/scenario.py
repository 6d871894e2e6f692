"""What the double answers: a scenario, the rules that choose a reply, and the message that a reply becomes.

Pure; the serving is in `tests.doubles.messages_api`. A scenario is a JSON object, every key optional:

- ``rules``: ``[{"match": MATCH, "times": N, "reply": REPLY}]``; the first that matches and has uses left wins.
- ``steps``: ``[REPLY, ...]``; else the next step. ``repeat_last``: true keeps serving the last one.
- ``steps_by``: ``global`` (default): one cursor; ``session``: one per ``x-claude-code-session-id`` header;
  ``turn``: index = number of assistant messages in the request, which survives a restart and a resume.
- ``default``: REPLY; else this (default: ``{"text": "ok"}``).
- ``headers``: added to every ``/v1/messages`` response, such as ``anthropic-ratelimit-*``.
- ``limits``: ``{"rpm": N, "tpm": N, "concurrent": N, "retry_after": S}``: the server enforces them and answers 429.

MATCH, all given keys must hold. Substrings: ``model``, ``contains`` (last user message), ``system``, ``path``; equal:
``session``, ``turns``; booleans: ``has_tools``, ``tool_result`` (the last user message has one), ``stream``;
``header``: ``{name: substring}``.

REPLY, the content: ``text``; ``text_bytes`` (pad text to that size); ``json`` (an object sent as text; ``"auto"``: made
up from the schema of ``output_config.format`` or of a forced tool); ``tool_use`` ``{name, input, id}`` or a list of
them; ``content`` (blocks); ``raw_sse`` (frames). ``${cwd} ${n} ${session} ${last_user}`` are expanded in strings.
The rest: ``stop_reason``, ``usage``, ``model``, ``headers``; ``latency`` (s before the status line), ``ttft`` (s after
message_start), ``chunk`` (characters per delta, 24), ``chunk_delay`` (s); ``status`` >= 400 with ``error_type``,
``message``, ``retry_after``, ``body`` (raw string instead of the JSON); ``fault``:

- ``hang`` (no status line), ``close`` (end of file), ``reset`` (TCP reset), ``not_sse`` (200 with HTML);
- in mid stream (a request without streaming gets the nearest equivalent; match ``{"stream": true}`` to spare those):
  ``hang_headers``, ``hang_mid`` (half the events), ``hang_ping`` (then only pings, every ``ping_every`` s),
  ``truncate`` (end of file after half), ``malformed`` (broken JSON), ``sse_error`` (error event),
  ``no_stop`` (no message_stop), ``unknown`` (an extra event type).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Request:
    """One request, as rules see it."""

    n: int
    path: str
    headers: dict[str, str]
    body: JsonObject
    size_bytes: int

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def has_tools(self) -> bool:
        return bool(self.body.get("tools"))

    @property
    def session(self) -> str:
        return self.headers.get("x-claude-code-session-id", "")

    @property
    def messages(self) -> list[JsonObject]:
        found: list[JsonObject] = self.body.get("messages", [])
        return found

    @property
    def turns(self) -> int:
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def system(self) -> str:
        return text_of(self.body.get("system", ""))

    @property
    def contains(self) -> str:
        return text_of(self._last_user)

    @property
    def tool_result(self) -> bool:
        last = self._last_user
        blocks = last if isinstance(last, list) else []
        return any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)

    @property
    def cwd(self) -> str:
        told = [self.system, *(text_of(message.get("content")) for message in self.messages[:2])]
        match = re.search(r"(?:[Ww]orking directory|CWD|cwd): *(/[^\s<]*)", "\n".join(told))
        return match[1] if match else "/tmp"

    @property
    def input_tokens(self) -> int:
        return self.size_bytes // 4 + 1

    @property
    def _last_user(self) -> Any:
        users = (message["content"] for message in reversed(self.messages) if message.get("role") == "user")
        return next(users, "")


@dataclass
class Scenario:
    """A script, and how far it has been played."""

    script: JsonObject
    used: Counter[int] = field(default_factory=Counter)
    cursors: Counter[str] = field(default_factory=Counter)
    recent: deque[tuple[float, int]] = field(default_factory=deque)

    def pick(self, request: Request) -> tuple[JsonObject, str]:
        """Return the reply to a request, and which part of the script it came from."""
        for i, rule in enumerate(self.script.get("rules", [])):
            if self.used[i] < rule.get("times", _NO_LIMIT) and _matches(rule.get("match", {}), request):
                self.used[i] += 1
                return rule["reply"], f"rule{i}"
        return self._step(request) or (self.script.get("default", {"text": "ok"}), "default")

    def _step(self, request: Request) -> tuple[JsonObject, str] | None:
        steps, by = self.script.get("steps", []), self.script.get("steps_by", "global")
        key = request.session if by == "session" else ""
        i = request.turns if by == "turn" else self.cursors[key]
        if not steps or (i >= len(steps) and not self.script.get("repeat_last")):
            return None
        self.cursors[key] += 1
        i = min(i, len(steps) - 1)
        return steps[i], f"step{i}"

    def limited(self, request: Request, in_flight: int) -> tuple[dict[str, str], JsonObject | None]:
        """Return the headers of the simulated limits, and a refusal when one of them is exceeded."""
        limits, now_s = self.script.get("limits"), time.time()
        if not limits:
            return {}, None
        while self.recent and self.recent[0][0] < now_s - 60:
            self.recent.popleft()
        headers, why, wait_s = self._windows(limits, now_s)
        if in_flight > limits.get("concurrent", _NO_LIMIT):
            why = "concurrent connections"
        if why:
            message = f"This request would exceed the limit of {why}"
            return headers, {"status": 429, "retry_after": wait_s, "message": message}
        self.recent.append((now_s, request.input_tokens))
        return headers, None

    def _windows(self, limits: JsonObject, now_s: float) -> tuple[dict[str, str], str, float]:
        headers: dict[str, str] = {}
        why, wait_s = "", limits.get("retry_after", 1)
        reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + 60))
        used = {"requests": len(self.recent), "tokens": sum(tokens for _, tokens in self.recent)}
        for key, name in (("rpm", "requests"), ("tpm", "tokens")):
            if key not in limits:
                continue
            left = limits[key] - used[name]
            headers[f"anthropic-ratelimit-{name}-limit"] = str(limits[key])
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(max(0, left - 1))
            headers[f"anthropic-ratelimit-{name}-reset"] = reset
            if left <= 0:
                why = f"{name} per minute"
                wait_s = limits.get("retry_after", max(1, int(self.recent[0][0] + 61 - now_s)))
        return headers, why, wait_s


def _matches(match: JsonObject, request: Request) -> bool:
    return all(_holds(key, wanted, request) for key, wanted in match.items())


def _holds(key: str, wanted: Any, request: Request) -> bool:
    if key == "header":
        return all(part in request.headers.get(name.lower(), "") for name, part in wanted.items())
    found = getattr(request, key)
    return wanted in found if key in {"model", "contains", "system", "path"} else bool(found == wanted)


def message_of(reply: JsonObject, request: Request) -> JsonObject:
    """Return the message that a reply becomes."""
    blocks = _blocks(reply, request)
    for block in blocks:
        if block["type"] == "tool_use":
            block.setdefault("id", "toolu_" + uuid.uuid4().hex[:22])
    uses_tool = any(block["type"] == "tool_use" for block in blocks)
    usage = {
        "input_tokens": request.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": sum(len(json.dumps(block)) for block in blocks) // 4 + 1,
        **reply.get("usage", {}),
    }
    return {
        "id": "msg_" + uuid.uuid4().hex[:22],
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "model": reply.get("model") or request.model,
        "stop_reason": reply.get("stop_reason") or ("tool_use" if uses_tool else "end_turn"),
        "stop_sequence": None,
        "usage": usage,
    }


def _blocks(reply: JsonObject, request: Request) -> list[JsonObject]:
    fill = _filler(request)
    blocks: list[JsonObject] = [dict(fill(block)) for block in reply.get("content", [])]
    if "json" in reply:
        blocks.append(_json_block(fill(reply["json"]), request))
    if "text" in reply or "text_bytes" in reply:
        told = fill(reply.get("text", ""))
        blocks.append({"type": "text", "text": told + "x" * max(0, reply.get("text_bytes", 0) - len(told))})
    tools = fill(reply.get("tool_use", []))
    calls = [tools] if isinstance(tools, dict) else tools
    return blocks + [{"type": "tool_use", "input": {}, **call} for call in calls]


def _filler(request: Request) -> Callable[[Any], Any]:
    values = {
        "cwd": request.cwd,
        "n": str(request.n),
        "session": request.session,
        "last_user": request.contains[-500:],
    }

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\$\{(cwd|n|session|last_user)\}", lambda match: values[match[1]], value)
        if isinstance(value, dict):
            return {key: fill(part) for key, part in value.items()}
        return [fill(part) for part in value] if isinstance(value, list) else value

    return fill


def _json_block(value: Any, request: Request) -> JsonObject:
    body = request.body
    forced = (body.get("tool_choice") or {}).get("name")
    if value == "auto" and forced:
        tools: list[JsonObject] = body.get("tools", [])
        schema: JsonObject = next((tool["input_schema"] for tool in tools if tool.get("name") == forced), {})
        return {"type": "tool_use", "name": forced, "input": sample(schema)}
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return {"type": "text", "text": json.dumps(sample(wanted.get("schema") or {}) if value == "auto" else value)}


def events_of(reply: JsonObject, message: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the server-sent events of a message as (event, data) pairs."""
    opening = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield "message_start", {"message": opening}
    yield "ping", {}
    if reply.get("fault") == "unknown":
        yield "galaxy_update", {"foo": [1, 2], "note": "an event type no client knows"}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block, reply.get("chunk", 24))
    closing = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"delta": closing, "usage": {"output_tokens": message["usage"]["output_tokens"]}}
    if reply.get("fault") != "no_stop":
        yield "message_stop", {}


def _block_events(index: int, block: JsonObject, chunk: int) -> Iterator[tuple[str, JsonObject]]:
    kind = block["type"]
    start, full, delta, key = {
        "text": ({"type": "text", "text": ""}, block.get("text", ""), "text_delta", "text"),
        "thinking": (
            {"type": "thinking", "thinking": "", "signature": ""},
            block.get("thinking", ""),
            "thinking_delta",
            "thinking",
        ),
        "tool_use": ({**block, "input": {}}, json.dumps(block.get("input", {})), "input_json_delta", "partial_json"),
    }.get(kind, (block, "", "", ""))
    yield "content_block_start", {"index": index, "content_block": start}
    for at in range(0, len(full), chunk):
        yield "content_block_delta", {"index": index, "delta": {"type": delta, key: full[at : at + chunk]}}
    if kind == "thinking":
        signed = {"type": "signature_delta", "signature": block.get("signature", "c2ln")}
        yield "content_block_delta", {"index": index, "delta": signed}
    yield "content_block_stop", {"index": index}


def error_body(status: int, message: str, kind: str | None = None, request_id: str | None = None) -> JsonObject:
    """Return an error as the API words it."""
    error = {"type": kind or _ERROR_TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "request_id": request_id, "error": error}


def text_of(content: Any) -> str:
    """Return all text in a message's or system's content, tool results included."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return content.get("text") or text_of(content.get("content") or "")
    return "\n".join(text_of(block) for block in content or [])


def sample(schema: JsonObject) -> Any:
    """Return a small instance of a JSON schema: objects, arrays, enums, scalars, $ref, anyOf."""
    return _sample(schema, schema, 0)


def _sample(node: JsonObject, root: JsonObject, depth: int) -> Any:
    if "$ref" in node:
        found: Any = root
        for part in node["$ref"].lstrip("#/").split("/"):
            found = found[part]
        node = found
    for key in ("anyOf", "oneOf", "allOf"):
        if node.get(key):
            return _sample(node[key][0], root, depth)
    if "const" in node or node.get("enum"):
        return node.get("const", (node.get("enum") or [None])[0])
    kind = node.get("type")
    return _sample_of(kind[0] if isinstance(kind, list) else kind, node, root, depth)


def _sample_of(kind: str | None, node: JsonObject, root: JsonObject, depth: int) -> Any:
    if kind == "object" or "properties" in node:
        properties = node.get("properties", {}) if depth < 8 else {}
        return {key: _sample(value, root, depth + 1) for key, value in properties.items()}
    if kind == "array":
        return [_sample(node.get("items", {}), root, depth + 1)] * max(1, node.get("minItems", 1)) if depth < 8 else []
    numbers = {"integer": node.get("minimum", 1), "number": node.get("minimum", 1.0)}
    return {**numbers, "boolean": True, "null": None}.get(kind or "", "x" * max(4, node.get("minLength", 4)))
