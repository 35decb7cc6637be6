"""People and batch jobs on one replica: the same rows, people first, and nothing that a shard does not ask for."""

from __future__ import annotations

import asyncio

import pyarrow.parquet as pq
import pytest

from cluster.config import RuntimeConfig
from cluster.service.backend import Job
from cluster.service.limits import ServiceLimits
from components.errors import ClusterError, ConfigError
from components.models.cpu import use_threads
from components.models.device import Placement
from components.options import parse
from components.samplers import preset
from components.scorers import Scorers
from components.shards.model import Sampling
from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from tests.cluster.service import replicas
from tests.components.test_export import exported
from tests.components.test_int8 import DTYPES

LIMITS = ServiceLimits(forward_lanes=4)
PROSECO = preset("proseco", steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shared") / "model"
    exported(made)
    return made


def shard_of(folder, place, lanes: int = 4, **changes) -> SampleShard:
    return SampleShard("s", place, folder, Sampling(PROSECO, num_lanes=lanes), 0, 40, 9, **changes)


def table(place):
    return pq.read_table(place / "shards" / "s.parquet").drop_columns("run")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shard_among_people_is_what_it_is_alone(folder, tmp_path, dtype):
    use_threads(1)  # of which replicas have as many
    placement = Placement("cpu", dtype)
    shard_of(folder, tmp_path / "alone", placement=placement).work()
    with replicas({"toy": folder}, LIMITS, placement) as opened:
        replica = opened["toy"]

        async def person(seed: int) -> None:
            rows = tuple(shard_of(folder, tmp_path).row(p, False, 0) for p in shard_of(folder, tmp_path).prompts.take(0, 3))
            async for _ in replica.sample(Job(PROSECO, rows, True, 60.0)):
                pass

        async def together():
            return (await asyncio.gather(replica.shard(shard_of(folder, tmp_path / "shared", placement=placement)), *map(person, range(6))))[0]

        receipt = asyncio.run(together())
        (numbers,) = asyncio.run(replica.numbers())
    assert receipt["rows"] == 40
    assert (numbers.shards, numbers.engine.rows) == (1, 40 + 6 * 3)
    assert table(tmp_path / "shared").equals(table(tmp_path / "alone"))


def test_a_shard_that_asks_for_other_forwards_is_refused_with_the_remedy(folder, tmp_path):
    with replicas({"toy": folder}, LIMITS) as opened:
        for shard, said in (
            (shard_of(folder, tmp_path, lanes=5), "set generate.lanes=4"),
            (shard_of(folder, tmp_path, placement=Placement("cpu", "bfloat16")), "set --dtype float32"),
        ):
            with pytest.raises(ConfigError, match=said):
                asyncio.run(opened["toy"].shard(shard))
    assert not list(tmp_path.iterdir())


def test_scores_of_a_batch_job_are_made_there_too(folder, tmp_path):
    shard_of(folder, tmp_path / "samples").work()
    scorers = parse(Scorers, ["entropy"], "scorers")
    shard = ScoreShard("s", tmp_path / "scores", tmp_path / "samples" / "shards" / "s.parquet", scorers, folder)
    with replicas({"toy": folder}, LIMITS) as opened:
        assert asyncio.run(opened["toy"].shard(shard))["rows"] == 40
    assert len(pq.read_table(tmp_path / "scores" / "shards" / "s.parquet")["entropy"]) == 40


def test_a_service_is_used_on_a_cluster_that_was_joined_only():
    assert [p.path for p in RuntimeConfig(service=True).problems()] == ["service"]
    assert not list(RuntimeConfig(service=True, address="127.0.0.1:6379").problems())


def test_replicas_of_a_service_that_say_nothing_are_waited_for_a_while_only():
    from types import SimpleNamespace

    from cluster.serving import Served

    def result(timeout_s=None):
        assert timeout_s == 3
        raise TimeoutError

    silent = SimpleNamespace(app_name="model-a", folder=SimpleNamespace(remote=lambda: SimpleNamespace(result=result)))
    served = object.__new__(Served)
    served.runtime = RuntimeConfig(start_wait_s=3)
    with pytest.raises(ClusterError, match="model-a say nothing in 3 s"):
        served.folder_of(silent)
