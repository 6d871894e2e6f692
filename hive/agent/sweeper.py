"""Stops what runs leave behind: many runs share one look through the process table.

Looks run in a few threads of their own. A request that comes while all of them look waits for the next look,
together with every other one that came meanwhile: stopping 300 agents at once costs a handful of looks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from hive.agent.proctable import stop_blocking
from hive.clock import Clock
from hive.model import ProcessRecord

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Request:
    records: Sequence[ProcessRecord]
    marks: Collection[str]
    grace_s: float
    done: Future[list[int]] = field(default_factory=Future)


class Sweeper:
    """Takes requests from any thread."""

    def __init__(self, clock: Clock, threads: int = 4) -> None:
        self._clock = clock
        self._threads = ThreadPoolExecutor(threads, "hive-stop")
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._later: set[str] = set()

    def stop(self, records: Sequence[ProcessRecord], marks: Collection[str], grace_s: float) -> Future[list[int]]:
        """Stop groups and carriers of marks as `stop_blocking` does; cannot be taken back.

        Returns:
            Process ids that would not die, of all requests that shared the look.
        """
        request = _Request(records, marks, grace_s)
        request.done.set_running_or_notify_cancel()
        with self._lock:
            self._waiting.append(request)
        self._threads.submit(self._look_blocking)
        return request.done

    async def finish(self, records: Sequence[ProcessRecord], marks: Collection[str], grace_s: float) -> list[int]:
        """Do what `stop` does, to the end even when cancelled; the cancellation is raised afterwards."""
        job = self.stop(records, marks, grace_s)
        interrupted = await to_the_end(job)
        if interrupted is not None:
            raise interrupted
        return job.result()

    def later(self, mark: str) -> None:
        """Have the next `sweep` look for what an ended run left behind; costs next to nothing."""
        if mark:
            with self._lock:
                self._later.add(mark)

    async def sweep(self, grace_s: float = 0.5) -> list[int]:
        """Stop what the runs given to `later` left behind; the owner of the loop calls this about once a second.

        Returns:
            Process ids that would not die.
        """
        with self._lock:
            marks, self._later = self._later, set()
        if not marks:
            return []
        return await self.finish((), marks, grace_s)

    def close(self) -> None:
        """Finish the looks that were asked for and end the threads."""
        self._threads.shutdown(wait=True)

    def _look_blocking(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return  # an earlier look took this request along
        records = [record for request in batch for record in request.records]
        marks = {mark for request in batch for mark in request.marks}
        grace_s = max(request.grace_s for request in batch)
        try:
            survivors = stop_blocking(records, marks, grace_s=grace_s, clock=self._clock)
        except BaseException as error:
            for request in batch:
                request.done.set_exception(error)
            raise
        for request in batch:
            request.done.set_result(survivors)


async def to_the_end(job: Future[_T]) -> asyncio.CancelledError | None:
    """Wait until a thread has done a job, though cancelled meanwhile; a job that has not begun is taken back.

    Returns:
        The cancellation that came in between and is still to be raised.
    """
    waiter = asyncio.wrap_future(job)
    interrupted: asyncio.CancelledError | None = None
    while not waiter.done():
        try:
            await asyncio.wait({waiter})
        except asyncio.CancelledError as error:
            if job.cancel():
                raise
            interrupted = error
    waiter.exception()
    return interrupted
