"""A double of the Anthropic Messages API for tests: scriptable, on loopback only, standard library only.

In a test::

    async with MessagesApi({"default": {"text": "ok"}}) as api:
        ... ANTHROPIC_BASE_URL=api.url ... api.requests ...

As a program, which prints ``PORT=<n>`` once it listens and serves until TERM or INT::

    python -m tests.doubles.messages_api --port 0 --scenario FILE [--log FILE.jsonl] [--log-bodies] [--port-file FILE]

Endpoints: POST ``/v1/messages`` (JSON and server-sent events), ``/v1/messages/count_tokens``, GET ``/v1/models``,
``/v1/messages/batches`` (create, retrieve, results), GET ``/_fake/stats``, POST ``/_fake/scenario`` (replaces the
scenario). What a scenario is stands in `tests.doubles.scenario`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import time
import uuid
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.doubles.scenario import JsonObject, Request, Scenario, error_body, events_of, message_of

_BATCHES = "/v1/messages/batches"
_NEVER_LOGGED = ("x-api-key", "authorization")


class _ClientGoneError(Exception):
    """The client closed its connection, or the script says that we close ours."""


class MessagesApi:
    """The server. Listens on a free port of 127.0.0.1 unless `port` says which.

    Attributes:
        requests: One record per request to the API, in the order they ended: path, status, reply, last user message.
        peak_in_flight: Most requests served at the same moment.
        authorizations: What each request to the API presented as its key or token, in order of arrival.
    """

    def __init__(
        self, script: JsonObject | None = None, *, port: int = 0, log: Path | None = None, log_bodies: bool = False
    ) -> None:
        self.requests: list[JsonObject] = []
        self.authorizations: list[str] = []
        self.arrived = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._port = port
        self._log = log
        self._log_bodies = log_bodies
        self._began_s = time.time()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.load(script or {})

    def load(self, script: JsonObject) -> None:
        """Replace the scenario and begin it anew."""
        self._scenario = Scenario(script)
        self._stats: Counter[str] = Counter()
        self._batches: dict[str, list[JsonObject]] = {}

    @property
    def port(self) -> int:
        assert self._server is not None, "not listening"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1 << 20, backlog=512)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    # -- one connection, one request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            while True:
                await self._one(_Connection(reader, writer))
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError, _ClientGoneError):
            pass
        finally:
            writer.close()

    async def _one(self, client: _Connection) -> None:
        method, path, headers, raw = await client.read_request()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            return await client.send(400, error_body(400, "body is not JSON"))
        if path == "/_fake/stats":
            return await client.send(200, self._statistics())
        if path == "/_fake/scenario" and method == "POST":
            self.load(body)
            return await client.send(200, {"ok": True})
        if method == "HEAD":
            return await client.send(200, b"", kind="text/plain")
        return await self._recorded(client, method, Request(self.arrived + 1, path, headers, body, len(raw)))

    def _statistics(self) -> JsonObject:
        counted = {"requests": self.arrived, "inflight": self.in_flight, "peak_inflight": self.peak_in_flight}
        return {**counted, "by": self._stats}

    async def _recorded(self, client: _Connection, method: str, request: Request) -> None:
        self.arrived += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.authorizations.append(
            next((request.headers[name] for name in _NEVER_LOGGED if name in request.headers), "")
        )
        record = self._record(method, request)
        try:
            await self._route(client, method, request, record)
        except (ConnectionError, asyncio.CancelledError):
            record["outcome"] = "client_gone"
            raise
        finally:
            self.in_flight -= 1
            self._keep(record)

    def _record(self, method: str, request: Request) -> JsonObject:
        shown = {name: "<redacted>" if name in _NEVER_LOGGED else value for name, value in request.headers.items()}
        record = {
            "t": round(time.time() - self._began_s, 3),
            "n": request.n,
            "method": method,
            "path": request.path,
            "headers": shown,
            "status": 200,
            "model": request.model,
            "stream": request.stream,
            "session": request.session,
            "messages": len(request.messages),
            "turns": request.turns,
            "bytes": request.size_bytes,
            "tools": [tool.get("name") for tool in request.body.get("tools", [])],
            "max_tokens": request.body.get("max_tokens"),
            "last_user": request.contains[-300:],
        }
        return {**record, "body": request.body} if self._log_bodies else record

    def _keep(self, record: JsonObject) -> None:
        record["secs"] = round(time.time() - self._began_s - record["t"], 3)
        self._stats[f"{record['path']} {record['status']} {record.get('outcome')}"] += 1
        self.requests.append(record)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    async def _route(self, client: _Connection, method: str, request: Request, record: JsonObject) -> None:
        path = request.path
        if path == "/v1/messages" and method == "POST":
            await self._messages(client, request, record)
        elif path == "/v1/messages/count_tokens":
            await client.send(200, {"input_tokens": request.input_tokens})
        elif path == "/v1/models":
            await client.send(200, _MODELS)
        elif path.startswith(_BATCHES):
            await self._batch(client, method, request, record)
        else:
            await self._not_found(client, request, record)

    async def _not_found(self, client: _Connection, request: Request, record: JsonObject) -> None:
        record["status"] = 404
        await client.send(404, error_body(404, request.path))

    # -- batches

    async def _batch(self, client: _Connection, method: str, request: Request, record: JsonObject) -> None:
        parts = request.path.removeprefix(_BATCHES).strip("/").split("/")
        host = request.headers.get("host", "")
        if parts == [""] and method == "POST":
            batch_id = "msgbatch_" + uuid.uuid4().hex[:16]
            self._batches[batch_id] = request.body.get("requests", [])
            await client.send(200, self._batch_state(batch_id, host, ended=False))
        elif parts[0] not in self._batches:
            await self._not_found(client, request, record)
        elif parts[1:] == ["results"]:
            lines = [self._batch_line(asked, request) for asked in self._batches[parts[0]]]
            await client.send(200, ("\n".join(lines) + "\n").encode(), kind="application/x-jsonl")
        else:
            await client.send(200, self._batch_state(parts[0], host, ended=True))

    def _batch_line(self, asked: JsonObject, request: Request) -> str:
        inner = Request(request.n, request.path, request.headers, asked["params"], request.size_bytes)
        reply, _ = self._scenario.pick(inner)
        result = {"type": "succeeded", "message": message_of(reply, inner)}
        return json.dumps({"custom_id": asked["custom_id"], "result": result})

    def _batch_state(self, batch_id: str, host: str, *, ended: bool) -> JsonObject:
        count = len(self._batches[batch_id])
        waiting, done = (0, count) if ended else (count, 0)
        return {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "created_at": "2025-01-01T00:00:00Z",
            "expires_at": "2025-01-02T00:00:00Z",
            "ended_at": "2025-01-01T00:01:00Z" if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"http://{host}{_BATCHES}/{batch_id}/results" if ended else None,
            "request_counts": {"processing": waiting, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0},
        }

    # -- messages

    async def _messages(self, client: _Connection, request: Request, record: JsonObject) -> None:
        headers, refusal = self._scenario.limited(request, self.in_flight)
        reply, record["reply"] = (refusal, "limits") if refusal else self._scenario.pick(request)
        request_id = "req_" + uuid.uuid4().hex[:20]
        headers = {
            "request-id": request_id,
            **self._scenario.script.get("headers", {}),
            **headers,
            **reply.get("headers", {}),
        }
        fault, status = reply.get("fault"), reply.get("status", 200)
        if fault == "sse_error" and not request.stream:
            fault, status = None, 529
        record["status"], record["outcome"] = status, fault or ("ok" if status < 400 else "error")
        await asyncio.sleep(reply.get("latency", 0))
        await _break_before_headers(client, fault, record, streaming=request.stream)
        if status >= 400:
            await _refuse(client, status, reply, headers)
        elif fault == "not_sse":
            await client.send(200, b"<html>captive portal</html>", headers, kind="text/html")
        else:
            message = message_of(reply, request)
            record["usage"] = message["usage"]
            if request.stream:
                await _stream(client, reply, message, headers, record)
            else:
                data = json.dumps(message).encode()
                cut = len(data) // 2 if fault in {"truncate", "malformed"} else len(data)
                await client.send(200, data[:cut], headers)


_MODEL = {"type": "model", "id": "claude-fake-1", "display_name": "Fake", "created_at": "2025-01-01T00:00:00Z"}
_MODELS = {"data": [_MODEL], "has_more": False, "first_id": _MODEL["id"], "last_id": _MODEL["id"]}


async def _break_before_headers(client: _Connection, fault: str | None, record: JsonObject, *, streaming: bool) -> None:
    if fault == "hang" or (fault in {"hang_headers", "hang_mid", "hang_ping"} and not streaming):
        await client.hang(record)
    if fault == "reset":
        client.reset()
    if fault in {"close", "reset"}:
        raise _ClientGoneError


async def _refuse(client: _Connection, status: int, reply: JsonObject, headers: dict[str, str]) -> None:
    if reply.get("retry_after") is not None:
        headers = {**headers, "retry-after": str(reply["retry_after"])}
    message = reply.get("message", f"fake {status}")
    error = error_body(status, message, reply.get("error_type"), headers["request-id"])
    await client.send(status, reply["body"].encode() if "body" in reply else error, headers)


async def _stream(
    client: _Connection, reply: JsonObject, message: JsonObject, headers: dict[str, str], record: JsonObject
) -> None:
    streamed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    await client.write(_head(200, {**streamed, "transfer-encoding": "chunked", **headers}))
    if reply.get("fault") == "hang_headers":
        await client.hang(record)
    frames = list(reply.get("raw_sse") or (_frame(name, data) for name, data in events_of(reply, message)))
    half = max(3, len(frames) // 2)
    for i, frame in enumerate(frames):
        if i == half and await _break_in_mid_stream(client, reply, record):
            break
        await client.chunk(frame, reply.get("chunk_delay", 0) + (reply.get("ttft", 0) if i == 0 else 0))
    await client.write(b"0\r\n\r\n")


async def _break_in_mid_stream(client: _Connection, reply: JsonObject, record: JsonObject) -> bool:
    """Do what the fault says when half the events are out; true when no more of them follow."""
    match reply.get("fault"):
        case "hang_mid":
            await client.hang(record)
        case "hang_ping":
            while not client.at_eof():
                await client.chunk(_frame("ping", {}), reply.get("ping_every", 1))
            raise _ClientGoneError
        case "truncate":
            raise _ClientGoneError
        case "malformed":
            broken = '{"type":"content_block_delta","index":0,"delta":{"type":"text_de'
            await client.chunk(f"event: content_block_delta\ndata: {broken}\n\n")
        case "sse_error":
            error = error_body(529, reply.get("message", "Overloaded"), reply.get("error_type"))
            await client.chunk(f"event: error\ndata: {json.dumps(error)}\n\n")
            return True
        case _:
            pass
    return False


def _frame(name: str, data: JsonObject) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"


class _Connection:
    """HTTP/1.1 on one connection, as far as the clients need it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Return method, path, headers in lower case, and body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return method, target.split("?")[0], headers, await self._read_body(headers)

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return await self._reader.readexactly(int(headers.get("content-length", 0)))
        body = b""
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body

    async def send(
        self, status: int, value: Any, headers: dict[str, str] | None = None, *, kind: str = "application/json"
    ) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        await self.write(
            _head(status, {"content-type": kind, "content-length": str(len(data)), **(headers or {})}) + data
        )

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, value: str, delay_s: float = 0) -> None:
        data = value.encode()
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))
        if delay_s:
            await asyncio.sleep(delay_s)

    async def hang(self, record: JsonObject) -> None:
        """Say nothing until the client gives up, and close."""
        await self._reader.read(1)
        record["outcome"] += ", client gone"
        raise _ClientGoneError

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode()


async def _main(args: argparse.Namespace, script: JsonObject) -> None:
    async with MessagesApi(script, port=args.port, log=args.log, log_bodies=args.log_bodies) as api:
        if args.port_file is not None:
            _write_blocking(args.port_file, str(api.port))
        print(f"PORT={api.port}", flush=True)
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        await stop.wait()


def _write_blocking(path: Path, value: str) -> None:
    path.write_text(value, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a double of the Anthropic Messages API")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scenario", type=Path, help="JSON file; without one every request gets the text 'ok'")
    parser.add_argument("--log", type=Path, help="request log, one JSON object per line")
    parser.add_argument("--log-bodies", action="store_true", help="put whole request bodies into the log")
    parser.add_argument("--port-file", type=Path, help="also write the port number there")
    return parser.parse_args()


if __name__ == "__main__":
    _args = _arguments()
    asyncio.run(_main(_args, json.loads(_args.scenario.read_text("utf-8")) if _args.scenario else {}))
