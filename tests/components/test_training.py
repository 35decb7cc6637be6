from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from components.data.rows import PackedRow, block_of, write_rows
from components.diffusion import noise
from components.errors import ConfigError, CorruptArtifact, LeaseLost, NonFiniteLoss, OutOfMemory
from components.models.ema import Ema
from components.models.transformer import Transformer
from components.objectives.config import MdlmConfig, PolicyGrpoConfig, ProsecoConfig
from components.options import parse
from components.store.files import publish_text
from components.store.lease import Lease, file_of
from components.training import checkpoint, loop
from components.training.batches import RowSource
from components.training.config import OptimizerConfig, TrainConfig
from components.training.engine import TorchEngine
from components.training.loop import fit, learning_rate
from components.training.meter import Meter
from tests.doubles import PAD, TINY, VOCAB, MemoryTracker, diverging, job, token_rows, uneven_rows
from tests.learning import CONFIGS, likes_even

CPU = torch.device("cpu")


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return Transformer(dataclasses.replace(TINY, **changes), VOCAB)


def train(folder, rows, seed=0, tracker=None, dropout=0.0, **changes):
    made = job(folder, rows, **changes)
    model = network(seed, dropout=dropout)
    last = fit(made, TorchEngine(model, made.config.optimizer), tracker)
    return {f"{k}/{n}": t for k, n, t in checkpoint.read(last, ("weight", "ema", "exp_avg", "exp_avg_sq"))}


def test_stopping_and_resuming_changes_no_bit(tmp_path):
    rows = token_rows(tmp_path / "rows")
    whole = train(tmp_path / "whole", rows, dropout=0.1)
    train(tmp_path / "half", rows, steps=3, dropout=0.1)
    half = train(tmp_path / "half", rows, seed=5, dropout=0.1)
    assert all(torch.equal(whole[k], half[k]) for k in whole)


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    rows = token_rows(tmp_path / "rows")
    one, many = train(tmp_path / "a", rows, micro_batch=8), train(tmp_path / "b", rows, micro_batch=3)
    assert all(torch.allclose(one[k], many[k], atol=1e-5) for k in one)


def one_step(made, wrap=lambda objective: objective):
    """(gradient norm, what was measured) of optimiser step 4 of a network in float64."""
    changes = made.config.objective.model_changes()
    model = network(**changes).double()
    nn.init.normal_(model.head.weight, std=0.3)
    if model.policy is not None:
        nn.init.normal_(model.policy.out.weight)
    engine = TorchEngine(model, made.config.optimizer)
    meter = Meter(engine.all_reduce, engine.device)
    setting = dataclasses.replace(loop.setting_of(made, engine), reward=likes_even)
    objective = wrap(loop.build_objective(made.config.objective, setting))
    norm, _ = loop.train_step(engine, objective, loop.rows_of(made, "train", engine), 4, meter, lr=1e-3)
    return norm, meter.flush()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_two_micro_batches_give_the_gradient_and_the_means_of_one(config, tmp_path):
    rows = token_rows(tmp_path / "rows")
    one, measured_once = one_step(job(tmp_path, rows, 8, objective=config))
    two, measured_twice = one_step(job(tmp_path, rows, 4, objective=config))
    assert one > 0
    assert two == pytest.approx(one, rel=1e-6)
    assert measured_twice == pytest.approx(measured_once, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_corruption_is_drawn_once_a_step(config, tmp_path, monkeypatch):
    """One corruption for each of three micro-batches; counting draws nothing, and the loss draws nothing again."""
    acts = []
    drawn = {"corrupt": set(), "counts": set(), "terms": set()}
    uniform = noise.uniform

    def recorded(keys, tick, inner, num_positions, stream):
        drawn[acts[-1]].add(stream)
        return uniform(keys, tick, inner, num_positions, stream)

    def act(name, function):
        def entered(*given):
            acts.append(name)
            return function(*given)

        return entered

    def watched(objective):
        functions = {name: act(name, getattr(objective, name)) for name in drawn}
        return dataclasses.replace(objective, **functions)

    monkeypatch.setattr(noise, "uniform", recorded)
    one_step(job(tmp_path, token_rows(tmp_path / "rows"), 3, objective=config), watched)
    assert acts == ["corrupt"] * 3 + ["counts"] * 3 + ["terms"] * 3
    assert not drawn["counts"]
    assert not drawn["corrupt"] & drawn["terms"]
    assert drawn["corrupt"] or isinstance(config, PolicyGrpoConfig)


def test_only_the_last_checkpoints_are_kept(tmp_path):
    rows = token_rows(tmp_path / "rows")
    made = dataclasses.replace(job(tmp_path / "a", rows, checkpoint_every=1), keep=2)
    fit(made, TorchEngine(network(), made.config.optimizer), None)
    assert [p.name for p in checkpoint.complete(tmp_path / "a" / "checkpoints")] == ["step-00000005", "step-00000006"]


def test_a_training_that_was_taken_over_writes_no_further_checkpoint(tmp_path):
    """Its ranks may go on while its driver sleeps; two of them at one folder would spoil each other's files."""
    lease = Lease(tmp_path, "train-0", "this run").wait(0)
    folder = tmp_path / "t"
    made = dataclasses.replace(job(folder, token_rows(tmp_path / "rows")), fence=lease.fence)

    class Losing(MemoryTracker):
        def metrics(self, values, step):
            if step == 4:  # after the first checkpoint
                publish_text(file_of(lease.chain, 2), json.dumps(dataclasses.asdict(lease.record) | {"id": "theirs"}))

    with pytest.raises(LeaseLost, match="taken over by this run"):
        fit(made, TorchEngine(network(), made.config.optimizer), Losing())
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000003"]
    lease.release()


def test_an_unfinished_checkpoint_is_not_resumed_from(tmp_path):
    rows = token_rows(tmp_path / "rows")
    whole = train(tmp_path / "whole", rows)
    train(tmp_path / "half", rows, steps=3)
    debris = tmp_path / "half" / "checkpoints" / "step-00000004"
    debris.mkdir()
    (debris / "rank-0-of-1.safetensors").write_bytes(b"half a file")
    half = train(tmp_path / "half", rows)
    assert all(torch.equal(whole[k], half[k]) for k in whole)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    rows = token_rows(tmp_path / "rows")
    train(tmp_path / "a", rows, steps=3)
    file = next((tmp_path / "a" / "checkpoints").glob("*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifact, match="Delete the folder"):
        train(tmp_path / "a", rows)


def test_training_learns_and_logs_what_it_should(tmp_path):
    rows = token_rows(tmp_path / "rows", count=24)
    tracker = MemoryTracker()
    train(tmp_path / "a", rows, tracker=tracker, steps=60, log_every=10, checkpoint_every=60)
    logged = [(s, v) for s, v in tracker.seen_metrics if "nll_bound" in v]
    assert logged[-1][1]["nll_bound"] < logged[0][1]["nll_bound"]
    assert {"loss/mdm", "loss/correct", "correct_ce", "fix_rate", "break_rate", "lr", "grad_norm"} <= set(logged[-1][1])
    assert any("validation/nll_bound" in v for _, v in tracker.seen_metrics)


def test_validation_is_plain_masked_diffusion_whatever_the_objective(tmp_path):
    """Pitfall 11: same weights, same number."""
    rows = token_rows(tmp_path / "rows")
    model = network()
    found = []
    for objective in (MdlmConfig(), ProsecoConfig()):
        made = job(tmp_path / "a", rows, objective=objective)
        engine = TorchEngine(model, made.config.optimizer)
        found.append(loop.validate(engine, made, loop.rows_of(made, "validation", engine))["validation/nll_bound"])
    assert found[0] == found[1]


def test_a_gradient_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    rows = token_rows(tmp_path / "rows")
    train(tmp_path / "a", rows, steps=3)
    with pytest.raises(NonFiniteLoss, match="Lower optimizer.lr"):
        train(tmp_path / "a", rows, optimizer=diverging(), steps=9)
    assert checkpoint.latest(tmp_path / "a" / "checkpoints").name == "step-00000003"


class Poisoned(TorchEngine):
    """The gradients of some steps are not finite; steps are told apart by their learning rates."""

    def __init__(self, *given, bad=()):
        super().__init__(*given)
        self.bad, self.rates = set(bad), []

    def step(self, lr):
        self.rates.append(lr)
        if lr in self.bad:
            next(self._model.parameters()).grad.fill_(math.nan)
        return super().step(lr)


def poisoned(folder, rows, bad, tracker=None, **changes):
    """(engine, final tensors) of a training of six steps, some of which are bad."""
    made = job(folder, rows, **changes)
    rates = [learning_rate(step, made.config.steps, made.config.optimizer) for step in range(made.config.steps)]
    assert len(set(rates)) == len(rates)
    engine = Poisoned(network(), made.config.optimizer, bad=[rates[step] for step in bad])
    last = fit(made, engine, tracker)
    return engine, {f"{k}/{n}": t for k, n, t in checkpoint.read(last, ("weight", "ema", "exp_avg", "exp_avg_sq"))}


RISING = OptimizerConfig(lr=1e-3, warmup_steps=6)


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_counted(tmp_path):
    rows, tracker = token_rows(tmp_path / "rows"), MemoryTracker()
    engine, found = poisoned(tmp_path / "a", rows, [1, 4], tracker, optimizer=RISING, max_skipped=2)
    assert all(t.isfinite().all() for t in found.values())
    assert [v["skipped"] for _, v in tracker.seen_metrics if "skipped" in v] == [1, 2]
    assert json.loads((tmp_path / "a" / loop.SKIPPED).read_text()) == [1, 4]
    rates = [learning_rate(step, 6, RISING) for step in range(6)]
    # From the start without step 1, then from the checkpoint of step 3 without step 4.
    assert engine.rates == [rates[s] for s in (0, 1, 0, 2, 3, 4, 3, 5)]
    # Without the steps, and with nothing of them.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / loop.SKIPPED).write_text("[1, 4]")
    _, clean = poisoned(tmp_path / "b", rows, [], optimizer=RISING, max_skipped=2)
    assert all(torch.equal(found[k], clean[k]) for k in clean)


@pytest.mark.parametrize("allowed", [0, 1])
def test_more_steps_than_may_be_left_out_stop_a_training(tmp_path, allowed):
    with pytest.raises(NonFiniteLoss, match=f"max_skipped = {allowed}"):
        poisoned(tmp_path / "a", token_rows(tmp_path / "rows"), [1, 4], optimizer=RISING, max_skipped=allowed)


class Wanting:
    """Wants a checkpoint at one beat."""

    def __init__(self, beat):
        self.beats, self.wanted = 0, beat

    def beat(self):
        self.beats += 1
        return self.beats == self.wanted


def test_a_checkpoint_is_written_when_one_is_wanted(tmp_path):
    made = dataclasses.replace(job(tmp_path / "a", token_rows(tmp_path / "rows")), keep=9)
    watch = Wanting(5)
    fit(made, TorchEngine(network(), made.config.optimizer), None, watch)
    assert watch.beats == 6
    steps = [int(p.name.removeprefix("step-")) for p in checkpoint.complete(tmp_path / "a" / "checkpoints")]
    assert steps == [3, 5, 6]


def test_running_out_of_memory_proposes_a_batch(tmp_path):
    """The allocation is real: a batch that no machine holds."""
    rows = token_rows(tmp_path / "rows")
    made = job(tmp_path / "a", rows, micro_batch=8)
    model = network()
    huge = lambda *inputs: torch.empty(1 << 60)  # noqa: E731
    model.register_forward_pre_hook(huge)
    with pytest.raises(OutOfMemory, match="runtime.micro_batch=4"):
        fit(made, TorchEngine(model, made.config.optimizer), None)
    assert "activation_checkpointing" in str(loop.out_of_memory(1))


@pytest.mark.parametrize("backwards", [1, 5, 6, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gradient_of_few_tokens_is_kept_by_them_until_they_are_many(backwards, tied):
    """Of 20 positions each, and a table of 200 tokens, whose half they reach with the fifth backward and pass with the sixth."""
    engines = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Transformer(dataclasses.replace(TINY, tie_embeddings=tied), 200).double()
        engines.append(TorchEngine(model, OptimizerConfig(clip=0.01)))
    few, whole = engines
    assert few._model.embed.sparse
    whole._model.embed.sparse = False
    norms, places = [], set()
    for engine in engines:
        for seed in range(backwards):
            tokens = torch.randint(200, (4, 5), generator=torch.Generator().manual_seed(seed))
            engine.backward(engine.network(tokens).logits.square().mean())
            if engine is few and not tied:
                grad = engine._table.grad
                assert grad.is_sparse == (seed < 5)
                places.add(None if grad.is_sparse else grad.data_ptr())
        norms.append(engine.step(1e-3))
    assert len(places - {None}) == (not tied and backwards > 5), "what came later was not added where the gradient was"
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    for mine, other in zip(few.masters(), whole.masters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-10, atol=1e-12)


def test_a_network_that_reads_its_whole_table_keeps_a_whole_gradient():
    assert not TorchEngine(network(encoder="dsl"), OptimizerConfig())._model.embed.sparse


def test_the_average_follows_its_formula():
    weight = torch.zeros(3)
    ema = Ema([weight], 0.99)
    expected = torch.zeros(3)
    for step in range(1, 20):
        weight += 1
        ema.update(step)
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(ema.averages[0], expected)
    assert weight.tolist() == [19.0] * 3


def test_rates_warm_up_and_fall():
    config = OptimizerConfig(lr=1.0, warmup_steps=10, schedule="cosine", final_lr_share=0.1)
    rates = [learning_rate(s, 100, config) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert learning_rate(55, 100, config) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)


def test_batches_are_the_same_at_any_world_size(tmp_path):
    rows = token_rows(tmp_path / "rows")
    made = job(tmp_path, rows, micro_batch=3)

    def stream(world_size):
        ranks = [RowSource(made, "train", rank=r, world_size=world_size, device=CPU) for r in range(world_size)]
        parts = [batch for source in ranks for batch in source.batches(4)]
        return {k: torch.cat([getattr(b, k) for b in parts]) for k in ("tokens", "index", "keys", "maskable")}

    one = stream(1)
    for world_size in (2, 4):
        other = stream(world_size)
        assert all(torch.equal(one[k], other[k]) for k in one)
    three = stream(3)  # nine places for eight rows: the ninth is padding without targets
    assert not three["maskable"][-1].any()


def test_the_speed_is_told_of_positions_that_exist(tmp_path, monkeypatch):
    folder, counted = uneven_rows(tmp_path / "rows", (2, 4, 8)), []
    monkeypatch.setattr(Meter, "count_step", lambda self, positions: counted.append(positions))
    train(tmp_path / "a", folder)
    source = RowSource(job(tmp_path / "a", folder), "train", rank=0, world_size=1, device=CPU)
    assert counted == [int(source.sizes(step).sum()) for step in range(6)]


def test_problems_of_a_training_are_all_reported():
    with pytest.raises(ConfigError) as found:
        parse(TrainConfig, {"steps": 0, "t_min": 2.0, "ema_decay": 1.0, "optimizer": {"lr": -1}}, "train.x")
    paths = {p.path for p in found.value.problems}
    assert paths == {"train.x.steps", "train.x.t_min", "train.x.ema_decay", "train.x.optimizer.lr"}


def test_a_checkpoint_is_readable_without_us(tmp_path):
    from safetensors.torch import load_file

    rows = token_rows(tmp_path / "rows")
    train(tmp_path / "a", rows)
    last = checkpoint.latest(tmp_path / "a" / "checkpoints")
    assert json.loads((last / "state.json").read_text())["step"] == 6
    tensors = load_file(next(last.glob("*.safetensors")))
    assert {k.split("/")[0] for k in tensors} == {"weight", "ema", "exp_avg", "exp_avg_sq"}


def test_labels_are_hidden_at_the_stated_rate_and_never_in_validation(tmp_path):
    """For guidance; 5 standard deviations, seeded. The same rows whatever the micro-batch."""
    folder = token_rows(tmp_path / "rows")
    labelled = [PackedRow([4 + i % 4] * 8, 0, i % 3) for i in range(64)]
    for name in ("train-0.arrow", "validation-0.arrow"):
        write_rows(folder / name, block_of(labelled, 8, PAD, 9))
    made = job(tmp_path / "job", folder, label_dropout=0.3)
    source = RowSource(made, "train", rank=0, world_size=1, device=CPU)
    labels = torch.cat([source.batch(step, torch.arange(8)).label for step in range(250)])
    share = float(labels.isnan().double().mean())
    assert abs(share - 0.3) < 5 * (0.21 / 2000) ** 0.5
    parts = torch.cat([source.batch(3, torch.arange(i, i + 2)).label for i in range(0, 8, 2)])
    assert torch.equal(parts.nan_to_num(-1), source.batch(3, torch.arange(8)).label.nan_to_num(-1))
    validation = RowSource(made, "validation", rank=0, world_size=1, device=CPU)
    assert bool((validation.batch(0, torch.arange(8)).label >= 0).all())


def test_rows_of_several_lengths_are_trained_on_side_by_side(tmp_path):
    """Every row once on any number of ranks, little padding, and the same weights whatever shares a micro-batch."""
    folder = uneven_rows(tmp_path / "rows", (2, 4, 8))

    def batches(world_size, micro):
        made = job(tmp_path / "none", folder, micro)
        sources = [RowSource(made, "train", rank=r, world_size=world_size, device=CPU) for r in range(world_size)]
        return [b for s in sources for b in s.batches(3)]

    whole = {int(i): (t[m].tolist(), k) for b in batches(1, 8) for i, t, m, k in zip(b.index, b.tokens, b.maskable, b.keys, strict=True)}
    assert sorted(whole) == list(range(8))
    assert {len(t) for t, _ in whole.values()} == {2, 4, 8}
    for world_size, micro in ((1, 2), (2, 2), (4, 1), (3, 1)):
        found = batches(world_size, micro)
        rows_found = {int(i): t[m].tolist() for b in found for i, t, m in zip(b.index, b.tokens, b.maskable, strict=True) if i < 8}
        assert rows_found == {i: t for i, (t, _) in whole.items()}
    assert sum(b.num_positions for b in batches(1, 2)) == sum(len(t) for t, _ in whole.values()), "no padding beyond a row"
    shares = [sum(b.num_positions for b in RowSource(job(tmp_path / "none", folder, 2), "train", rank=r, world_size=2, device=CPU).batches(3)) for r in (0, 1)]
    assert abs(shares[0] - shares[1]) <= 8, "ranks have equally much to do, but for one row"
    assert [len(b.tokens) for b in batches(1, 3)] == [3, 3, 2], "rows of several lengths share a micro-batch"
    dealt = [len(whole[int(i)][0]) for b in batches(1, 3) for i in b.index]
    assert dealt == sorted(dealt, reverse=True), "those of one length stand together"
    one, other = (train(tmp_path / str(m), folder, micro_batch=m) for m in (8, 2))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[k], other[k], atol=2e-6) for k in one)
