"""Diagnoses on networks whose knowledge of errors is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from components.evaluation.diagnosis import auroc, detection, diagnose, plant, repair
from components.samplers import preset
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.scorers import localization
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.config import LocalizationConfig, NelboConfig
from components.scorers.nelbo import build as build_nelbo
from tests.decoding import policy
from tests.oracle import Oracle

ORACLE = Oracle(
    num_tokens=3, length=6, joint=lambda o: torch.exp(0.6 * (o[:, :, None] == o[:, None, :]).sum((1, 2)).double())
)
WORDS = Vocabulary(3)
CLEAN = torch.arange(3).repeat(20)[:, None].expand(-1, 6).contiguous()
WRITABLE = torch.ones_like(CLEAN, dtype=torch.bool)


def test_auroc_is_the_share_of_pairs_in_order():
    wrong, right = torch.tensor([0.1, 0.4, 0.4]), torch.tensor([0.4, 0.9])
    assert auroc(wrong, right) == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert auroc(torch.zeros(4), torch.zeros(3)) == 0.5
    assert auroc(right, wrong) == pytest.approx(1 - auroc(wrong, right))


@pytest.mark.parametrize("kind", ["random", "own"])
def test_planted_errors_are_wrong_and_as_many_as_asked_for(kind):
    writable = WRITABLE.clone()
    writable[:, 0] = False
    planted = plant(ORACLE, CLEAN, writable, 2, kind, WORDS)
    assert not bool(planted.wrong[:, 0].any())
    assert int(planted.wrong.sum(-1).max()) <= 2
    assert float(planted.wrong.sum()) > (119 if kind == "random" else 5)
    assert bool((planted.shown < 3).all())


def test_the_oracle_finds_and_mends_every_single_error():
    planted = plant(ORACLE, CLEAN, WRITABLE, 1, "random", WORDS)
    told = detection(ORACLE, planted, WORDS, has_quality=True)
    assert told["auroc_visible"] == told["auroc_loo"] == told["auroc_quality"] == 1.0
    assert told["repair_rate"] == 1.0
    assert told["break_rate"] == 0.0
    assert told["preservation_bias"] < 0.05


def test_a_copying_network_finds_nothing():
    class Copies:
        def __call__(self, tokens, **given):
            found = ORACLE(tokens, **given)
            own = torch.nn.functional.one_hot(tokens, 4).double() * 50
            return replace(found, logits=torch.where((tokens != 3)[..., None], own, found.logits))

    planted = plant(ORACLE, CLEAN, WRITABLE, 1, "random", WORDS)
    told = detection(Copies(), planted, WORDS, has_quality=False)
    assert told["auroc_visible"] == 0.5
    assert told["repair_rate"] == 0.0
    assert told["preservation_bias"] > 0.99
    assert told["auroc_loo"] == 1.0


def test_correctors_are_measured_by_their_edits():
    planted = plant(ORACLE, CLEAN, WRITABLE, 1, "random", WORDS)
    greedy = replace(SamplerConfig().draw, temperature=0.0)
    edit = replace(preset("token_edit"), draw=greedy)
    told = repair(ORACLE, planted, edit, WORDS, Extras(policy))
    assert told["edit_precision"] == told["edit_recall"] == 1.0
    assert told["flip_flop_rate"] == 0.0
    plain = preset("mdlm")
    assert repair(ORACLE, planted, plain, WORDS, Extras())["edit_recall"] == 0.0


def test_a_diagnosis_has_a_line_for_each_kind_and_corrector():
    correctors = {"prism": preset("prism")}
    lines = diagnose(ORACLE, CLEAN, WRITABLE, WORDS, {"quality_layers": 0}, 1, correctors, Extras())
    assert [(x["kind"], x.get("corrector")) for x in lines] == [
        ("random", None), ("random", "prism"), ("own", None), ("own", "prism")
    ]  # fmt: skip
    assert lines[1]["edits"] > 0.5, "a corrector without room to act measures nothing"


def test_two_independent_estimators_of_the_bound_agree():
    """By times and by numbers of masks, within four standard errors; a network without knowledge gives log V exactly."""

    class Words:
        mask_id = 3

    rows = [ScoredRow(i, "", "", tuple(t), 0) for i, t in enumerate(CLEAN[:30].tolist())]
    mean, error = {}, {}
    for estimator in ("time", "count"):
        setting = ScorerSetting(Words(), None, ORACLE)
        columns = build_nelbo(NelboConfig(draws=256, estimator=estimator), setting)(rows)
        mean[estimator] = sum(columns["nelbo"]) / len(rows)
        error[estimator] = (sum(e * e for e in columns["nelbo_se"]) ** 0.5) / len(rows)
    assert abs(mean["time"] - mean["count"]) < 4 * (error["time"] ** 2 + error["count"] ** 2) ** 0.5 + 1e-3
    exact = -float(ORACLE.joint[ORACLE.index(CLEAN[:3])].log().mean()) / 6
    assert mean["count"] == pytest.approx(exact, abs=4 * error["count"] + 1e-3)

    class Blank:
        def __call__(self, tokens, **given):
            found = ORACLE(tokens)
            return replace(found, logits=torch.zeros_like(found.logits))

    columns = build_nelbo(NelboConfig(draws=8, estimator="count"), ScorerSetting(Words(), None, Blank()))(rows)
    assert all(v == pytest.approx(torch.log(torch.tensor(3.0)).item(), abs=1e-5) for v in columns["nelbo"])


def exact(oracle, gamma_max):
    """The oracle as a network with DSL's encoder."""

    class Exact:
        encoder = SimpleNamespace(gamma_max=gamma_max, table=lambda: oracle.embedding)

        def __call__(self, tokens, dense, label=None):
            return oracle(tokens, dense=dense)

    return Exact


def localized(oracle, network, repeats) -> tuple[float, float]:
    """(mean of the bound over the joint, in nats a token; its standard error)."""
    outcomes = oracle.outcomes.tolist()
    rows = [ScoredRow(1000 * r + i, "", "", tuple(t), 0) for r in range(repeats) for i, t in enumerate(outcomes)]
    weight = oracle.joint.repeat(repeats) / repeats
    setting = ScorerSetting(SimpleNamespace(mask_id=oracle.mask_id), None, network)
    columns = localization.build(LocalizationConfig(draws=64), setting)(rows)
    mean, error = (torch.tensor(columns[name]) * weight for name in ("localization", "localization_se"))
    return float(mean.sum()), float((error**2).sum().sqrt())


@pytest.mark.parametrize("gamma_max", [15.0, 40.0])
def test_the_localization_bound_of_the_exact_posterior_is_the_entropy_at_large_gamma_max(gamma_max):
    """All outcomes of a small joint, weighted by their probability; within four standard errors, and flat in gamma_max.
    A posterior that knows no couplings must lie above by their information."""
    oracle = Oracle(num_tokens=3, length=2, seed=1, joint=lambda o: torch.exp(2.0 * (o[:, 0] == o[:, 1]).double()))

    class Apart(exact(oracle, gamma_max)):
        """Each position from its own evidence and prior alone."""

        def __call__(self, tokens, dense, label=None):
            found = oracle(tokens, dense=dense)
            match = dense.double() @ oracle.embedding[:3].T
            prior = torch.stack([
                torch.stack([oracle.joint[oracle.outcomes[:, i] == v].sum() for v in range(3)]) for i in range(2)
            ])  # fmt: skip
            logits = torch.full_like(found.logits, -700.0)
            logits[..., :3] = torch.log_softmax(match + prior.log(), -1)
            return replace(found, logits=logits)

    entropy = -float((oracle.joint * oracle.joint.log()).sum()) / 2
    mean, error = localized(oracle, exact(oracle, gamma_max)(), 40)
    assert abs(mean - entropy) < 4 * error + 2e-3
    mean, error = localized(oracle, Apart(), 40)
    assert mean > entropy + 4 * error


@pytest.mark.parametrize(("gamma_max", "above"), [(1.0, 0.076), (2.0, 0.053)])
def test_at_a_small_gamma_max_the_localization_bound_is_above_by_what_its_header_says(gamma_max, above):
    """Three positions; within three standard errors of the table and of the test together, and far from equality."""
    oracle = Oracle(num_tokens=3, length=3, seed=1)
    entropy = -float((oracle.joint * oracle.joint.log()).sum()) / 3
    mean, error = localized(oracle, exact(oracle, gamma_max)(), 20)
    assert error < 0.006
    assert abs(mean - entropy - above) < 3 * error + 0.006
    assert mean > entropy + 4 * error
