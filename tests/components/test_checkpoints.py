"""What is stored, what is read of it, and what a training notices of its being stored."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.errors import CorruptArtifact, LeaseLost, StoreError
from components.models.drawn import drawn_in_parts
from components.models.ema import Ema
from components.models.transformer import Transformer
from components.store.files import at
from components.training import checkpoint, saving
from components.training.checkpoint import KINDS
from components.training.engine import TorchEngine
from components.training.loop import fit
from components.training.ranges import (
    CHUNKS,
    MIN_CHUNK,
    digest_of,
    header_digest,
    key_of,
    read_header,
    read_range,
    write_ranges,
)
from components.training.saving import Saver, portion
from tests.components.test_training import Wanting
from tests.doubles import TINY, VOCAB, MemoryTracker, job, token_rows
from tests.parity.test_zero import OBJECTIVES

SIZE = 40 * MIN_CHUNK + 5


class OneOf(TorchEngine):
    """One of several ranks without the others: nobody waits."""

    def __init__(self, rank=0, world_size=1, seed=0):
        torch.manual_seed(seed)
        super().__init__(Transformer(TINY, VOCAB), job(Path(), Path()).config.optimizer)
        self.rank, self.world_size = rank, world_size

    def barrier(self):
        pass


def saver_of(folder, engine, **changes):
    return Saver(folder, engine, Ema(engine.masters(), 0.9), **({"keep": 1} | changes))


def contents(folder):
    return {f"{kind}/{name}": tensor for kind, name, tensor in checkpoint.read(folder, KINDS)}


@pytest.fixture
def stored(tmp_path):
    """(ranges of one file, what was written to it)."""
    values = {key_of("ema", "a", 10): torch.randn(SIZE), key_of("weight", "b", 0): torch.randn(3)}
    write_ranges(tmp_path / "f", values)
    return list(read_header(tmp_path / "f", header_digest(tmp_path / "f"))), list(values.values())


def test_any_range_is_read_as_it_was_written(stored):
    (first, second), (values, few) = stored
    whole = torch.cat([torch.full((10,), torch.nan), values])
    for start, numel in ((10, SIZE), (10, 1), (9 + SIZE, 1), (10 + MIN_CHUNK, 3), (9 + MIN_CHUNK, 2), (11, SIZE - 2)):
        out = torch.zeros(numel)
        read_range(first, start, out)
        assert torch.equal(out, whole[start : start + numel])
    out = torch.zeros(20)
    read_range(first, 0, out)  # half of it is elsewhere
    assert torch.equal(out, torch.cat([torch.zeros(10), values[:10]]))
    read_range(second, 3, out)
    assert torch.equal(out[:10], torch.zeros(10))
    read_range(second, 0, out)
    assert torch.equal(out[:3], few)


def test_a_changed_byte_is_found_by_whoever_reads_it_and_by_nobody_else(stored):
    (first, _), (values, _) = stored
    for chunk in range(CHUNKS):
        at = chunk * first.chunk
        raw = bytearray(first.file.read_bytes())
        raw[first.place + 4 * at] ^= 1
        first.file.write_bytes(raw)
        read_range(first, 10, torch.empty(at))
        read_range(first, 10 + at + first.chunk, torch.empty(max(0, SIZE - at - first.chunk)))
        with pytest.raises(ValueError, match="ema/a are not those that were written"):
            read_range(first, 10 + at, torch.empty(1))
        raw[first.place + 4 * at] ^= 1
        first.file.write_bytes(raw)
    read_range(first, 10, out := torch.empty(SIZE))
    assert torch.equal(out, values)


def test_every_byte_of_a_checkpoint_is_held_against_what_was_written(tmp_path):
    saver = saver_of(tmp_path, OneOf())
    folder = saver.save(4)
    saver.settle()
    (file,) = folder.glob("*.safetensors")
    whole = file.read_bytes()
    places = [*range(0, len(whole), 997), len(whole) - 1]
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptArtifact, match=f"Delete the folder {folder}"):
            contents(folder)
    file.write_bytes(whole[:-1])
    with pytest.raises(CorruptArtifact, match="cut off"):  # before anything is read
        checkpoint.open_checkpoint(folder)
    file.write_bytes(whole)
    contents(folder)


def test_a_checkpoint_lies_on_any_file_system(tmp_path):
    """Read by parts there, too; its file is never fetched in full."""
    for folder in (tmp_path, at("memory://checkpoints")):
        engine = OneOf(seed=3)
        saver = saver_of(folder, engine, keep=1)
        for step in (1, 2):
            saver.save(step)
        saver.settle()
        (found,) = checkpoint.complete(folder)
        assert found.name == "step-00000002"
        other = OneOf(seed=4)
        assert checkpoint.restore(found, other, Ema(other.masters(), 0.9)) == 2
        assert all(torch.equal(a, b) for a, b in zip(engine.masters(), other.masters(), strict=True))


def test_parts_of_another_checkpoint_are_no_part_of_this_one(tmp_path):
    for step, seed in ((1, 0), (2, 1)):
        saver = saver_of(tmp_path, OneOf(seed=seed), keep=2)
        saver.save(step)
        saver.settle()
    first, second = checkpoint.complete(tmp_path)
    shutil.copy(first / checkpoint.file_of(0, 1), second)
    with pytest.raises(CorruptArtifact, match="not the one that was written"):
        checkpoint.open_checkpoint(second)


WRONG = [
    "nothing",
    "a range is missing",
    "a rank is missing",
    "a shape is too much",
    "a range is there twice",
    "a hole",
    "an overlap",
]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_all_of_it_once_is_refused(wrong, tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    for rank in (0, 1):
        kinds = KINDS[rank:] if wrong == "a range is missing" else KINDS
        begin = 0 if wrong == "a range is there twice" else 4 * rank
        size = {"a hole": 3, "an overlap": 5}.get(wrong, 4) if rank == 0 else 4
        write_ranges(
            folder / checkpoint.file_of(rank, 2), {key_of(kind, "a", begin): torch.ones(size) for kind in kinds}
        )
    files = sorted(folder.glob("*.safetensors"))[: 1 if wrong == "a rank is missing" else 2]
    shapes = {"a": (2, 4), **({"b": (1,)} if wrong == "a shape is too much" else {})}
    checkpoint.publish_state(folder, 1, shapes, {f.name: header_digest(f) for f in files})
    if wrong == "nothing":
        assert torch.equal(contents(folder)["ema/a"], torch.ones(2, 4))
        return
    with pytest.raises(CorruptArtifact, match="once and in full"):
        checkpoint.open_checkpoint(folder)


def test_ranks_with_the_same_weights_share_the_writing(tmp_path):
    engines = [OneOf(rank, 3) for rank in range(3)]
    savers = [saver_of(tmp_path, engine) for engine in engines]
    for saver in savers:
        saver.save(0)
    for saver in savers:
        saver.settle()
    (folder,) = checkpoint.complete(tmp_path)
    sizes = [sum(t.numel() for t in load_file(f).values()) for f in sorted(folder.glob("*.safetensors"))]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= len(KINDS)
    assert all(torch.equal(contents(folder)[f"weight/{n}"], w) for n, w in engines[0]._model.state_dict().items())
    whole = engines[0].shares()
    for world_size in (1, 2, 7, 10_000):
        parts = [share for rank in range(world_size) for share in portion(whole, rank, world_size)]
        assert sum(share.numel for share in parts) == sum(share.numel for share in whole)
        assert all(share.numel for share in parts)


def test_a_checkpoint_without_one_of_its_ranks_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "PATIENCE", 3)
    first = saver_of(tmp_path, OneOf(0, 2))
    folder = first.save(0)
    first.close()
    assert [f.name for f in folder.iterdir()] == ["rank-0-of-2.safetensors"]
    assert checkpoint.latest(tmp_path) is None


def test_a_training_goes_on_while_its_checkpoint_is_stored(tmp_path):
    """What is stored is a copy: it does not change with the weights."""
    engine = OneOf()
    saver = saver_of(tmp_path, engine)
    tensors = saver.staged()
    before = {key: value.clone() for key, value in tensors.items()}
    for values in (engine.masters(), saver.ema.averages, *engine.moments().values()):
        for value in values:
            value += 1
    assert all(torch.equal(before[key], tensors[key]) for key in before)
    again = saver.staged()
    assert all(again[key].data_ptr() == tensors[key].data_ptr() for key in tensors), "the memory is used again"
    assert all(torch.equal(before[key] + 1, again[key]) for key in before)


class Failing(MemoryTracker):
    """From a step on, the disk is full."""

    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def metrics(self, values, step):
        super().metrics(values, step)
        if step == 2:
            self.patch.setenv("PROSECO_FAULT", "disk.full")


class Counting(OneOf):
    steps = 0

    def step(self, lr):
        self.steps += 1
        return super().step(lr)


def test_what_the_writer_meets_is_raised_soon(tmp_path, monkeypatch):
    made = job(tmp_path / "a", token_rows(tmp_path / "rows"), steps=400, checkpoint_every=200, log_every=2)
    engine = Counting()
    with pytest.raises(StoreError, match="No space left on device"):
        fit(made, engine, Failing(monkeypatch), Wanting(3))
    assert 3 <= engine.steps < 200, "before anything waits for the checkpoint"
    assert checkpoint.latest(tmp_path / "a" / "checkpoints") is None


def test_the_last_checkpoint_is_waited_for_and_what_it_meets_is_raised(tmp_path, monkeypatch):
    made = job(tmp_path / "a", token_rows(tmp_path / "rows"), steps=2, log_every=2)
    with pytest.raises(StoreError, match="No space left on device"):
        fit(made, OneOf(), Failing(monkeypatch))


def test_a_fence_that_is_lost_while_ranks_write_keeps_the_checkpoint_from_being_one(tmp_path):
    asked = []

    def fence():
        asked.append(1)
        if len(asked) == 2:
            raise LeaseLost("taken over")

    saver = saver_of(tmp_path, OneOf(), fence=fence)
    saver.save(0)
    with pytest.raises(LeaseLost, match="taken over"):
        saver.settle()
    assert checkpoint.latest(tmp_path) is None


SCRIPT = """
import sys
from pathlib import Path
from components.training.loop import fit
from tests.components.test_checkpoints import OneOf
from tests.doubles import job
made = job(Path(sys.argv[1]), Path(sys.argv[2]))
fit(made, OneOf(), None)
"""


@pytest.mark.parametrize("point", ["train.before_checkpoint", "train.mid_checkpoint", "train.after_checkpoint"])
def test_killed_amid_a_checkpoint_the_one_before_it_is_the_latest(point, tmp_path):
    rows = token_rows(tmp_path / "rows")
    folder = tmp_path / "a"
    command = [sys.executable, "-c", SCRIPT, str(folder), str(rows)]
    environment = {k: v for k, v in os.environ.items() if k != "PROSECO_DRIVER_PID"}
    died = subprocess.run(command, env=environment | {"PROSECO_FAULT": f"{point}:2"}, check=False)
    assert died.returncode == -9
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest.name == ("step-00000006" if point == "train.after_checkpoint" else "step-00000003")
    subprocess.run(command, env=environment, check=True)
    whole = job(tmp_path / "whole", rows)
    expected, found = contents(fit(whole, OneOf(), None)), contents(checkpoint.latest(folder / "checkpoints"))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_digests_are_the_first_digits_of_sha256():
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223"


MODELS = [objective.model_changes() for objective in OBJECTIVES.values()] + [
    {"tie_embeddings": True}, {"num_classes": 3}, {"value_range": (0.0, 1.0)}, {"time_conditioning": True},
]  # fmt: skip


@pytest.mark.parametrize(
    "changes", [dict(pairs) for pairs in sorted({tuple(sorted(m.items())) for m in MODELS})], ids=str
)
def test_weights_that_are_drawn_in_parts_are_those_that_are_drawn_at_once(changes):
    config = dataclasses.replace(TINY, **changes)
    torch.manual_seed(3)
    whole, after = Transformer(config, VOCAB), torch.rand(3)
    torch.manual_seed(3)
    sizes = []

    def half(flat):
        sizes.append(flat.numel())
        return flat[flat.numel() // 2 :]

    model, parts = drawn_in_parts(config, VOCAB, half)
    assert torch.equal(after, torch.rand(3)), "the generator is elsewhere"
    assert all(p.is_meta for p in model.parameters())
    assert parts.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        assert torch.equal(parts[name], half(parameter.detach().view(-1))), name
        assert parts[name].untyped_storage().nbytes() == 4 * parts[name].numel(), "no more than the part is kept"
    assert max(sizes) == max(p.numel() for p in whole.parameters())
