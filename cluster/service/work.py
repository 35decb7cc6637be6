"""Rows on their way: from a request's job to its answer, with its deadline, and given up when its client has left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from cluster.service.answers import DONE, HEARTBEAT, Reply, event
from cluster.service.backend import Backend, Job
from cluster.service.errors import ApiError, busy, failed, timed_out
from cluster.shared_engine import Busy, News
from components.errors import ProsecoError
from components.samplers.contract import Sample

T = TypeVar("T")
log = logging.getLogger(__name__)

GONE = 499
"""Status of a request whose client has left; nobody reads it but the metrics."""


async def news_of(backend: Backend, job: Job, heartbeat_s: float) -> AsyncGenerator[list[News], None]:
    """News of a job, the first of them empty: it was taken in. Empty, too, whenever there was none for so long.

    Raises:
        ApiError: there is no room, the deadline has passed, or a replica failed.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + job.deadline_s
    source = backend.sample(job)
    following: asyncio.Task[list[News]] | None = None
    try:
        while True:
            following = task = following or asyncio.ensure_future(anext(source))
            await asyncio.wait({task}, timeout=min(heartbeat_s, max(0.0, end - loop.time())))
            if task.done():
                following = None
                try:
                    yield task.result()
                except StopAsyncIteration:
                    return
            elif loop.time() >= end:
                raise timed_out(job.deadline_s)
            else:
                yield []
    except Busy as error:
        raise busy(str(error)) from None
    except TimeoutError:
        raise timed_out(job.deadline_s) from None
    finally:
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                await following
        with contextlib.suppress(Exception):
            await source.aclose()


async def samples_of(backend: Backend, job: Job) -> list[Sample]:
    """The samples of a job, in the order of its rows."""
    samples: dict[int, Sample] = {}
    async with contextlib.aclosing(news_of(backend, job, job.deadline_s)) as news:
        async for found in news:
            keep(found, samples)
    return [samples[index] for index in range(len(job.rows))]


def keep(news: list[News], samples: dict[int, Sample]) -> None:
    """Keep the rows that have ended. Raises ApiError where one failed."""
    for found in news:
        if isinstance(found.outcome, Sample):
            samples[found.index] = found.outcome
        elif found.outcome is not None:
            raise failed(f"Row {found.index} could not be made: {found.outcome}")


async def stream(backend: Backend, reply: Reply, heartbeat_s: float) -> AsyncGenerator[bytes, None]:
    """The events of a request. What goes wrong after the first of them is an event, too.

    Raises:
        ApiError: there is no room, or a replica failed, before there was any event.
    """
    job = reply.asked.job
    samples: dict[int, Sample] = {}
    async with contextlib.aclosing(news_of(backend, job, heartbeat_s)) as news:
        await anext(news)  # it was taken in
        async for told in told_of(reply, news, samples):
            yield told


async def told_of(reply: Reply, news: AsyncIterator[list[News]], samples: dict[int, Sample]) -> AsyncIterator[bytes]:
    """The events of a request that was taken in."""
    number = len(reply.asked.job.rows)
    try:
        for index in range(number):
            yield event(reply.start(index))
        async for several in news:
            for found in several:
                if found.edits:
                    yield event(reply.edits(found.index, found.edits))
            keep(several, samples)
            if not several:
                yield HEARTBEAT
        yield event(reply.whole([samples[index] for index in range(number)]))
    except ApiError as error:
        yield event(error.body)
    except Exception as error:
        log.exception("a stream failed")
        yield event(failed(f"This failed here: {type(error).__name__}. The server's log says more.").body)
    yield DONE


async def unless_gone(work: Awaitable[T], receive: Callable[[], Awaitable[Any]]) -> T:
    """The result of some work, which is given up when the client leaves.

    Raises:
        ApiError: the client has left.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ApiError(GONE, "The client has left.")
        return doing.result()
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def by_deadline(work: Awaitable[T], seconds: float) -> T:
    """The result of some work. Raises ApiError where it is not there in time, or could not be done."""
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise timed_out(seconds) from None
    except ProsecoError as error:
        raise ApiError(400, str(error), code="invalid_value") from None
