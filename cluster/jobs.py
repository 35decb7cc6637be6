"""Jobs on a Ray cluster, by its Jobs API: sent once, followed, stopped.

The cluster starts a job's command on one of its machines and keeps what it prints, so whoever sent it may leave and
come back. Two who send a job of one id at once start it once, because the cluster knows ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobSubmissionClient

from components.errors import ClusterError

ACTIVE = ("PENDING", "RUNNING")
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long a cluster that does not answer is asked again."""
ANSWER_S = 60.0
"""How long it has for an answer."""
SILENT_S = 60.0
"""After so long without a word of a job it is asked how that is, and a stream is begun anew: one that a machine which is gone
has left open says nothing for ever."""
RUN = "proseco_run"
"""Names the run in the metadata of our jobs."""


@dataclass(frozen=True)
class Job:
    """What a cluster knows of a job."""

    id: str
    run: str
    """Empty where it is none of ours."""
    state: str
    message: str
    exit_code: int | None
    started: float
    """Seconds since 1970; 0 where it has not begun."""
    ended: float
    """0 where it has not ended."""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def seconds(self) -> float:
        return (self.ended or time.time()) - self.started if self.started else 0.0

    @property
    def code(self) -> int:
        """What its command ended with, or says how it did."""
        return self.exit_code if self.exit_code is not None else int(self.state != "SUCCEEDED")


class Client(JobSubmissionClient):
    """Ray's, which by itself waits for ever for who takes a question and gives no answer."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, timeout=ANSWER_S, **options)


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str):
        """
        Args:
            address: of the cluster's dashboard, such as ``http://127.0.0.1:8265``.
        Raises:
            ClusterError: it does not answer, or asks for a token.
        """
        self.address = address
        with self._asking():
            self.client = Client(address)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Raises ClusterError, with what to do, in place of what the client raises."""
        try:
            yield
        except (RayError, RuntimeError, ConnectionError, OSError) as error:
            text = str(error).strip()
            if "does not exist" in text:
                raise ClusterError(f"{self.address} knows no such job. `proseco status` names those that there are.") from error
            remedy = "See whether the address is that of the cluster's dashboard, and whether the cluster runs."
            if any(word in text.lower() for word in ("authenticat", "token", "401", "403")):
                remedy = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds the cluster's token."
            raise ClusterError(f"{self.address} does not take this: {text}\n{remedy}") from error

    def send(self, id: str, command: str, folder: Path, run: str, variables: Mapping[str, str]) -> bool:
        """Have a command run in a copy of ``folder``. Returns False where a job of this id is there already.

        Args:
            variables: of its environment.
        """
        environment = {"working_dir": str(folder), "env_vars": dict(variables)}
        with self._asking():
            try:
                self.client.submit_job(entrypoint=command, submission_id=id, runtime_env=environment, metadata={RUN: run})
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def get(self, id: str) -> Job:
        with self._asking():
            return job_of(self.client.get_job_info(id))

    def all(self) -> list[Job]:
        """Those of ours, the newest first."""
        with self._asking():
            found = [job_of(d) for d in self.client.list_jobs() if d.submission_id]
        return sorted((j for j in found if j.run), key=lambda j: -j.started)

    def logs(self, id: str) -> str:
        """All that it has printed so far."""
        with self._asking():
            return str(self.client.get_job_logs(id))

    def stop(self, id: str) -> bool:
        """Have it end; it closes what it holds. Returns False where it had ended."""
        with self._asking():
            return bool(self.client.stop_job(id))

    def follow(self, id: str, write: Callable[[str], None]) -> Job:
        """Pass on what a job prints until it has ended. A connection that breaks is made again.

        Raises:
            ClusterError: there is no such job, or the cluster does not answer for a while.
        """
        self.get(id)
        once, lost = Once(write), 0.0
        while True:
            try:
                asyncio.run(self._tail(id, once))
                job = self.get(id)
            except (RayError, RuntimeError, ClusterError, OSError, aiohttp.ClientError) as error:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > PATIENCE_S:
                    raise ClusterError(
                        f"{self.address} did not answer for {PATIENCE_S:g} s ({error}). The job may go on; "
                        f"`proseco logs {id}` follows it again."
                    ) from error
            else:
                lost = 0.0
                if not job.active:
                    return job
            time.sleep(POLL_S)

    async def _tail(self, id: str, once: Once) -> None:
        once.begin()
        async with contextlib.aclosing(self.client.tail_job_logs(id)) as stream:
            with contextlib.suppress(StopAsyncIteration, TimeoutError):
                while True:
                    once.tell(await asyncio.wait_for(anext(stream), SILENT_S))


@dataclass
class Once:
    """Passes a text on once, although the stream that it comes in begins anew after a break."""

    write: Callable[[str], None]
    told: int = 0
    """Characters that were passed on."""
    seen: int = 0
    """Characters of this stream."""

    def begin(self) -> None:
        self.seen = 0

    def tell(self, text: str) -> None:
        new = text[max(0, self.told - self.seen) :]
        self.seen += len(text)
        if new:
            self.told = self.seen
            self.write(new)


def job_of(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id or "",
        run=(details.metadata or {}).get(RUN, ""),
        state=details.status.value,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
    )

