"""Everything on this machine without a cluster: tasks and shards in a few processes, a training in as many as it has
workers. One by one (``jobs=1``), tasks and shards are done in this process."""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessContext, ProcessException, ProcessExitedException, spawn

from cluster.cluster import Done, Stopped, TrainLaunch, Watcher
from cluster.config import RuntimeConfig
from cluster.dispatch import Dispatch, pause_s
from cluster.environment import Prepared
from cluster.worker import do_shard, failure_of, train_rank
from components.errors import ClusterError, ProsecoError, TrainingError

T = TypeVar("T")

POLL_S = 0.5


class LocalCluster:
    """See ``cluster.cluster.Cluster``."""

    def __init__(self, runtime: RuntimeConfig, prepared: Prepared):
        self.runtime = runtime
        self.prepared = prepared
        self.alone = runtime.jobs == 1
        self.lock = threading.Lock()
        self.pool: ProcessPoolExecutor | None = None
        self.trainings: list[ProcessContext] = []
        self.stopped = threading.Event()

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        results: list[Any] = [None] * len(items)
        if self.alone:
            for number, item in enumerate(items):
                results[number] = work(item)
                done(number, results[number])
            return results
        todo = dict(enumerate(items))
        for _ in range(self.runtime.max_attempts):
            pool = self.processes()
            waiting: dict[Future[Any], int] = {}
            try:
                waiting |= {pool.submit(InChild(work), item): number for number, item in todo.items()}
                for future in as_completed(waiting):
                    number = waiting[future]
                    results[number] = future.result()
                    del todo[number]
                    done(number, results[number])
                return results
            except BrokenProcessPool as error:
                self.replace(pool)
                if self.stopped.is_set():
                    raise Stopped from error
                died = error
            finally:
                for future in waiting:
                    future.cancel()
        raise self.in_vain() from died

    def train(self, launch: TrainLaunch) -> None:
        failure_of(launch.job)  # one of an earlier try is not ours
        for _ in range(self.runtime.max_failures + 1):
            try:
                self.launch(launch)
                return
            except ProcessException as error:
                if self.stopped.is_set():
                    raise Stopped from error
                if (failure := failure_of(launch.job)) is not None:
                    raise failure from None
                if not isinstance(error, ProcessExitedException):
                    raise  # a defect, with its traceback
                died = error
            except ProsecoError:
                failure_of(launch.job)
                raise
        raise TrainingError(
            f"The training processes died more than {self.runtime.max_failures} times (runtime.max_failures), at last: {died}. "
            f"What they had written as checkpoints is kept in {launch.job.folder / 'checkpoints'}; running again resumes. Where "
            f"it was SIGKILL, see whether the machine has memory left (`proseco doctor`), and lower runtime.micro_batch."
        ) from died

    def launch(self, launch: TrainLaunch) -> None:
        """Train in this process, or in as many as there are workers."""
        if self.alone and self.runtime.workers == 1 and self.runtime.engine == "torch":
            train_rank(launch)
            return
        with tempfile.TemporaryDirectory() as folder:
            arguments = (self.runtime.workers, f"file://{folder}/meeting", launch)
            # DeepSpeed keeps its groups in globals, and torch its random state: each training has processes of its own.
            with self.lock:
                if self.stopped.is_set():
                    raise Stopped
                context = spawn(in_group, arguments, nprocs=self.runtime.workers, join=False)
                self.trainings.append(context)
            try:
                while not context.join():
                    pass
            finally:
                end(context)
                self.trainings.remove(context)

    def serve(self, shards: Iterable[Any], watcher: Watcher) -> None:
        if self.alone:
            for number, shard in enumerate(shards):
                watcher.done(number, do_shard(shard, self.runtime.threads))
                watcher.waits(0, 0.0)
            return
        Dispatch(self._attempt, watcher, lambda: self.runtime.replicas + 1, self.stopped).run(shards)

    def _attempt(self, shard: Any, again: Callable[[str], None]) -> Any:
        """One shard in a process, tried again in others when that dies."""
        attempt = 0
        while True:
            attempt += 1
            pool = self.processes()
            try:
                return pool.submit(InChild(DoShard(self.runtime.threads)), shard).result()
            except BrokenProcessPool as error:
                self.replace(pool)
                if attempt == self.runtime.max_attempts:
                    raise self.in_vain() from error
                if self.stopped.wait(pause_s(attempt - 1)):
                    raise Stopped from error
                again("its process died")

    def size(self) -> tuple[float, float]:
        return float(self.runtime.cpus or os.cpu_count() or 1), float(self.runtime.gpus or (torch.cuda.device_count() if self.runtime.on_gpu else 0))

    def alive(self, work: Callable[[], T]) -> T:
        return work()

    def check(self) -> None:
        """This machine is not lost."""

    def processes(self) -> ProcessPoolExecutor:
        """The processes that tasks and shards of all stages share."""
        with self.lock:
            if self.stopped.is_set():
                raise Stopped
            if self.pool is None:
                self.pool = ProcessPoolExecutor(
                    min(self.runtime.replicas, int(self.size()[0])), get_context("spawn"), follow, (os.getpid(),)
                )
            return self.pool

    def in_vain(self) -> ClusterError:
        return ClusterError(
            f"The process of a task or a shard died {self.runtime.max_attempts} times (runtime.max_attempts). What was finished "
            f"stays; run the same command again, and it goes on from there. Where it happens again, see whether the machine has "
            f"memory left (`proseco doctor`), and have fewer processes share it (runtime.replicas)."
        )

    def replace(self, broken: ProcessPoolExecutor) -> None:
        """Forget processes one of which died, unless another thread did so before."""
        with self.lock:
            if self.pool is broken:
                self.pool = None
        broken.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        with self.lock:  # what is being started is started before, and ended here
            self.stopped.set()
        for context in list(self.trainings):
            end(context)
        self._end_pool()

    def close(self) -> None:
        self.stop()
        self.prepared.close()

    def _end_pool(self) -> None:
        with self.lock:
            pool, self.pool = self.pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


class DoShard:
    """A shard with so many threads, as something that travels to a process."""

    def __init__(self, threads: int):
        self.threads = threads

    def __call__(self, shard: Any) -> dict[str, Any]:
        return do_shard(shard, self.threads)


class InChild:
    """Work whose errors come back from a process, whatever they are: one that could not be read there would end it."""

    def __init__(self, work: Callable[[Any], Any]):
        self.work = work

    def __call__(self, item: Any) -> Any:
        try:
            return self.work(item)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # whatever it raises on the way, it can not be carried as it is
                raise RuntimeError(traceback.format_exc()) from None
            raise


def end(context: ProcessContext) -> None:
    """End the processes of a training that still run."""
    for process in context.processes:
        if process.is_alive():
            process.terminate()


def follow(parent: int) -> None:
    """Have this process end with the one that started it, which may be killed without a word."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="follow").start()


def in_group(rank: int, world_size: int, meeting: str, launch: TrainLaunch) -> None:
    """One training process. They meet through a file: no port can be taken."""
    os.environ["LOCAL_RANK"] = str(rank)
    backend = "nccl" if launch.runtime.on_gpu else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world_size)
    try:
        train_rank(launch)
    finally:
        dist.destroy_process_group()
