from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from components.api import Judging, load, sample, score
from components.data.config import TokenizerConfig
from components.data.corpora.config import LatinSquareConfig
from components.data.tokenizer import build_tokenizer
from components.errors import ConfigError, DataError, ModelError, SamplingError
from components.models.config import ModelConfig
from components.models.exchange.export import write_export
from components.models.transformer import Transformer
from components.models.weights import load_model, save_weights

MODELS = {
    "plain": ModelConfig(dim=16, depth=2, heads=2),
    "grid": ModelConfig(dim=16, depth=2, heads=2, num_positions=9),
    "conditioned": ModelConfig(dim=16, depth=1, heads=2, num_classes=3, time_conditioning=True),
    "valued": ModelConfig(dim=16, depth=1, heads=2, value_range=(-1.0, 3.0)),
    "in blocks": ModelConfig(dim=16, depth=2, heads=2, attention_block=4),
}


def exported(folder, config=MODELS["plain"], trained_with="proseco"):
    tokenizer = build_tokenizer(TokenizerConfig(), [], "123")
    torch.manual_seed(1)
    model = Transformer(config, tokenizer.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir()
    write_export(
        folder, config, model.state_dict(), tokenizer, 9, trained_with, trained_with == "proseco", {"steps": 3}
    )
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_loads_with_us_and_with_transformers_alone(name, tmp_path):
    """The second reader is a process that cannot import this project."""
    folder = tmp_path / "m"
    model = exported(folder, MODELS[name])
    ids = torch.randint(0, 7, (2, 9))
    extra = {
        "conditioned": {"label": torch.tensor([0.0, 2]), "time": torch.tensor([0.2, 0.9])},
        "valued": {"label": torch.tensor([0.37, torch.nan])},
    }.get(name, {})
    expected = model(ids, **extra).logits
    assert torch.equal(load_model(folder)(ids, **extra).logits, expected)
    torch.save({"ids": ids, **extra}, tmp_path / "in.pt")
    code = f"""
import sys, torch
sys.path = [p for p in sys.path if p and "{sys.path[0]}" != p]
from transformers import AutoModelForMaskedLM, AutoTokenizer
given = torch.load("{tmp_path}/in.pt")
model = AutoModelForMaskedLM.from_pretrained("{folder}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{folder}")
assert tokenizer.mask_token == "[MASK]" and tokenizer("123")["input_ids"] == [4, 5, 6], tokenizer("123")
extra = {{"time": given["time"]}} if "time" in given else {{}}
if "label" in given:
    extra["class_labels"] = given["label"].long() if model.config.num_classes else given["label"]
assert not any(m.split(".")[0] in ("components", "cluster", "pipelines") for m in sys.modules)
torch.save(model.eval()(given["ids"], **extra).logits.detach(), "{tmp_path}/out.pt")
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=300)
    assert torch.allclose(torch.load(tmp_path / "out.pt"), expected, atol=1e-5)


def test_three_lines_do_what_the_command_does(tmp_path):
    exported(tmp_path / "m")
    model = load(tmp_path / "m")
    rows = sample(model, sampler="proseco", num_samples=3, prompts=["12", ""], steps=4)
    numbers = score(model, rows, ["nelbo", "entropy", "validity"], Judging(LatinSquareConfig(size=3)))
    assert len(rows) == len(numbers["nelbo"]) == len(numbers["valid"]) == 6
    assert all(r.sample.tokens[:2] == (4, 5) for r in rows[:3])
    assert [r.sample for r in rows] == [r.sample for r in sample(model, "proseco", 3, ["12", ""], steps=4)]
    (alone,) = sample(model, "proseco", 1, [""], steps=4, num_lanes=6)
    assert alone.sample.tokens == rows[3].sample.tokens


def test_a_corrector_on_a_model_that_was_not_trained_for_it_is_refused(tmp_path):
    """Pitfall: on a plain model a replacing corrector does harm."""
    exported(tmp_path / "m", trained_with="mdlm")
    model = load(tmp_path / "m")
    with pytest.raises(SamplingError, match="allow_untrained=true"):
        sample(model, "proseco")
    assert sample(model, "proseco", allow_untrained=True, steps=3)


def test_wrong_folders_and_names_say_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="no exported model"):
        load(tmp_path)
    exported(tmp_path / "m")
    model = load(tmp_path / "m")
    with pytest.raises(ConfigError, match="did you mean proseco"):
        sample(model, "prosecco")
    with pytest.raises(DataError, match="leaves none to write"):
        sample(model, prompts=["123123123"])
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="export the model again"):
        load(tmp_path / "m")
    save_weights(weights, {"other": torch.zeros(2)})
    with pytest.raises(ModelError, match="do not fit"):
        load(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="model_type"):
        load(tmp_path / "m")


def test_parameters_are_counted_right():
    for config in (MODELS["plain"], MODELS["grid"], dataclasses.replace(MODELS["plain"], dim=0, preset="mini")):
        model = Transformer(config, 50)
        assert sum(p.numel() for p in model.parameters()) == config.num_parameters(50)


def test_time_conditioning_has_one_convention():
    """Pitfall 29: a conditioned network refuses to guess the time."""
    model = Transformer(MODELS["conditioned"], 8)
    with pytest.raises(ValueError, match="no time was given"):
        model(torch.zeros(1, 4, dtype=torch.long))


def test_work_is_counted_by_products_of_matrices():
    """Two blocks of 4 x 4 x 4 + 3 x 4 x 8 weights, a head of 4 x 10, and attention over 5 positions."""
    config = ModelConfig(dim=4, depth=2, heads=2, mlp_dim=8)
    assert config.flops(10, 5) == 6 * (2 * (64 + 96) + 40) + 12 * 2 * 4 * 5
