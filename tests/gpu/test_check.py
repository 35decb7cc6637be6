"""The parts of ``make gpu``, on a CPU: what they find is what is there."""

from __future__ import annotations

import json

import pytest
from torch._subclasses.fake_tensor import DataDependentOutputException

from components.models.device import num_gpus
from components.samplers.forward import measure
from tests.gpu import check, objectives, samplers, waiting
from tests.learning import CONFIGS


@pytest.mark.skipif(num_gpus() > 0, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_a_sentence_and_writes_nothing(tmp_path, capsys):
    assert check.main(["--device", "cuda", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("Skipped: the device cuda is not here")
    assert not (tmp_path / "out").exists()


def test_parts_pass_on_a_cpu_and_end_in_one_json_and_one_page(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "PRESETS", ["mdlm", "proseco", "dsl_sde"])
    monkeypatch.setattr(waiting, "PRESETS", ["mdlm", "proseco", "fk_steering"])
    monkeypatch.setattr(objectives, "CONFIGS", CONFIGS[:2])
    assert (
        check.main(["--device", "cpu", "--out", str(tmp_path), "--parts", "samplers", "objectives", "no waiting"]) == 0
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["passed"], found["failed"]) == (2 * 3 + 2 + 2 + 2 + 3, 0)
    assert "proseco, as on the CPU" in (tmp_path / "gpu.html").read_text()


def test_a_row_that_differs_fails_and_the_exit_code_says_so(tmp_path, monkeypatch):
    right = samplers.on_oracle
    monkeypatch.setattr(samplers, "PRESETS", ["mdlm"])
    calls = []

    def wrong_once(name, device):
        calls.append(device)
        found = right(name, device)
        return {**found, 13: None} if len(calls) == 1 else found

    monkeypatch.setattr(samplers, "on_oracle", wrong_once)
    assert check.main(["--device", "cpu", "--out", str(tmp_path), "--parts", "samplers"]) == 1
    (failed,) = [o for o in json.loads((tmp_path / "gpu.json").read_text())["outcomes"] if not o["ok"]]
    assert "23 of 24 rows" in failed["said"]


def test_a_step_that_reads_a_value_is_found(monkeypatch):
    """The step asks again how much is wanted, which waits."""
    right = waiting.stepped
    monkeypatch.setattr(waiting, "stepped", lambda s, state, _: right(s, state, measure(s.query(state))))
    with pytest.raises(DataDependentOutputException):
        waiting.on_tensors_without_values("mdlm", "cpu")


def test_a_gradient_that_differs_fails(monkeypatch):
    right = objectives.measured
    turns = iter([1.0, 1.001])

    def scaled(config, device):
        losses, slopes = right(config, device)
        factor = next(turns)
        return losses, {n: factor * g for n, g in slopes.items()}

    monkeypatch.setattr(objectives, "measured", scaled)
    with pytest.raises(AssertionError, match="off by"):
        objectives.equals_the_cpu(CONFIGS[0], "cpu")


def test_a_bfloat16_network_is_compared_within_its_rounding(monkeypatch):
    assert samplers.logits_are_near("cpu").startswith("largest relative difference")
    monkeypatch.setattr(samplers, "place", lambda model, placement: model)
    with pytest.raises(AssertionError):
        samplers.logits_are_near("cpu")  # a network that stayed in float32 is no bfloat16 one
