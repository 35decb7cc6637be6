"""Weight files. Safetensors at every boundary: loading one runs no code."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.errors import ConfigError, ModelError, Problem
from components.models.compiled import compile_for_cpu
from components.models.config import ModelConfig
from components.models.denoiser import Prediction
from components.models.device import Placement
from components.models.layers import keep_in_int8
from components.models.tiles import SIZES, Tiles
from components.models.transformer import Transformer
from components.options import parse
from components.outside import MAX_LENGTH
from components.store.artifact import read_manifest
from components.store.cache import local
from components.store.content import digest
from components.store.files import is_file, read_object, read_part
from components.store.root import foreign


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, each with storage of its own. Raises OSError where the disk does not take them."""
    try:
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path, dict(metadata or {}))
    except SafetensorError as error:  # what the operating system said comes as a text
        raise OSError(str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ModelError: it is missing or is not one.
    """
    if not is_file(path):
        raise ModelError(f"{path} does not exist. Give the folder of an exported model or of a checkpoint.")
    try:
        place = local(path)
        require_short_header(read_part(place, 0, 8))
        return load_file(place)
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file ({error}). It was cut off or is something else: "
            f"export the model again."
        ) from None


MAX_HEADER_BYTES = 16 << 20
"""Of a safetensors file, whose header names its tensors; it is read whole before anything else is known."""


def require_short_header(start: bytes) -> None:
    """Raises ValueError where a safetensors file that begins so has a header that is too long."""
    if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
        raise ValueError(f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB")


def require_fit(config: ModelConfig, vocab_size: int, tensors: Mapping[str, Tensor], source: str) -> None:
    """Hold sizes that are only told against weights that are there, before a network of such sizes is made.

    Raises:
        ModelError: the network would be far larger than the weights, or these are no finite numbers.
    """
    there = sum(tensor.numel() for tensor in tensors.values())
    config = config.resolved()
    parts = config.noise_dim * vocab_size if config.encoder == "dsl" else 0
    parts += config.dim * (config.num_classes + (config.dim + 256 if config.value_range else 0) + config.depth * 4 * config.adapter_rank)
    parts += config.block_parameters() * max(0, config.quality_layers)
    told = config.num_parameters(vocab_size) + parts
    if told > MAX_FRESH * there + (1 << 20):
        raise ModelError(
            f"{source} tells of a network of {told:.3g} weights, and holds {there}. Its config.json and its weights do not "
            f"belong together, or a file of weights is missing: get it again."
        )
    for name, tensor in tensors.items():
        known = tensor.dtype in FLOATS
        if not known or not bool(torch.isfinite(tensor.float()).all()):  # networks compute in float32
            kind = "not finite" if known else "of type " + str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"The weights {name} of {source} are {kind}, and a network computes nothing with them. Get it again.")


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be. Those in 8 bits mean something with scales alone, which stand elsewhere."""

MAX_FRESH = 4
"""How many times as many weights a network may have as there are in its files."""

HOME = Placement()
"""The CPU, in float32."""

FRESH = (".quality.", ".policy.", ".encoder.", ".adapter.")
"""Parts that a training may add to a network that was trained without them."""


def fill(model: torch.nn.Module, tensors: Mapping[str, Tensor], source: str, fresh: tuple[str, ...] = ()) -> None:
    """Put tensors into a model, all of them and nothing else; parts named in ``fresh`` may be missing and stay as they are.

    Raises:
        ModelError: see ``require_same``.
    """
    own = model.state_dict()
    require_same(shapes_of(own), shapes_of(tensors), source, fresh)
    model.load_state_dict({**own, **tensors})


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def require_same(
    own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], source: str, fresh: tuple[str, ...] = ()
) -> None:
    """Hold the shapes of given weights against those of a model; parts named in ``fresh`` may be missing.

    Raises:
        ModelError: names or shapes differ; the message lists the first of each kind.
    """
    missing = sorted(n for n in set(own) - set(given) if not any(part in f".{n}" for part in fresh))
    surplus = sorted(set(given) - set(own))
    other = [name for name in own if name in given and own[name] != given[name]]
    if not (missing or surplus or other):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
    if surplus:
        parts.append(f"{len(surplus)} are unknown (first: {surplus[0]})")
    if other:
        name = other[0]
        parts.append(f"{len(other)} have another shape (first: {name}, file {given[name]}, model {own[name]})")
    raise ModelError(
        f"The weights of {source} do not fit the model: {'; '.join(parts)}. "
        f"Use the model section and the tokenizer with which they were trained."
    )


def merge_adapters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model without adapters that computes the same."""
    merged = {name: tensor for name, tensor in weights.items() if ".adapter." not in name}
    for name, up in weights.items():
        if name.endswith(".adapter.up.weight"):
            base = name.removesuffix("adapter.up.weight")
            merged[f"{base}qkv.weight"] = weights[f"{base}qkv.weight"] + up @ weights[f"{base}adapter.down.weight"]
    return merged


def load_model(folder: Path, placement: Placement = HOME) -> Transformer:
    """The network of an exported folder, in eval mode, where ``placement`` says. Its logits are float32.

    Raises:
        ModelError: the folder is not an export of ours.
        ConfigError: its config.json describes no network.
    """
    raw = read_info(folder)
    names = {f.name for f in dataclasses.fields(ModelConfig)}
    path = str(folder / "config.json")
    config = parse(ModelConfig, {k: v for k, v in raw.items() if k in names}, path)
    if wrong := [dataclasses.replace(p, path=f"{path}.{p.path}") for p in config.problems(0)]:
        raise ConfigError(wrong)
    tensors = load_weights(folder / "model.safetensors")
    require_fit(config, raw["vocab_size"], tensors, str(folder))
    model = Transformer(config, raw["vocab_size"])
    fill(model, tensors, str(folder))
    return place(model.eval(), placement)


def place(model: Transformer, placement: Placement) -> Transformer:
    """The same network for sampling and scoring, moved to a device and, but for what decides in float32, to a dtype."""
    model.to(placement.device)
    kind = placement.device.partition(":")[0]
    model.tiles = Tiles(*SIZES[kind])
    if kind == "cuda":
        model.compile_blocks()
    if placement.dtype == "int8":
        for matrices in (model.blocks, model.head):
            keep_in_int8(matrices)
        compile_for_cpu(model.blocks, model.head)
    if placement.dtype != "bfloat16":
        return model
    model.to(torch.bfloat16)
    for part in (model.encoder, model.policy):  # noisy embeddings and reveal logits are compared with float32 ones
        if part is not None:
            part.float()
    model.register_forward_hook(in_float32)
    return model


def in_float32(model: torch.nn.Module, given: tuple[object, ...], said: Prediction | Tensor) -> Prediction | Tensor:
    """What a network said, in float32; called after its forward."""
    if isinstance(said, Tensor):
        return said.float()
    return Prediction(said.logits.float(), {name: value.float() for name, value in said.heads.items()}, said.kept)


def read_info(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder.

    Raises:
        ModelError: the folder is not an export of ours.
    """
    config_path = folder / "config.json"
    if not is_file(config_path):
        raise ModelError(
            f"{folder} holds no config.json, so it is no exported model. "
            f"Give the folder that the export stage made (`proseco show RUN --json` names it)."
        )
    try:
        raw = read_object(config_path)
    except ValueError as error:
        raise ModelError(f"{config_path} is not the config.json of a model ({error}). Export the model again.") from None
    if raw.get("model_type") != "proseco":
        raise ModelError(f"{config_path} has model_type {raw.get('model_type')!r}; only 'proseco' is read here.")
    lost = [name for name in ("vocab_size", "length") if type(raw.get(name)) is not int or raw[name] < 1]
    if lost:
        raise ModelError(f"{config_path} has no {lost[0]}, a whole number from 1. Export the model again.")
    return raw


def row_length(info: Mapping[str, Any], asked: int) -> int:
    """Positions of a row for a model with this config.json: those that are asked for, or with 0 those that it was trained on.

    Raises:
        ConfigError: it can not have so many.
    """
    wanted, most = asked or int(info["length"]), int(info.get("num_positions", 0)) or MAX_LENGTH
    if not 1 <= wanted <= most:
        rule = f"in [1, {most}], the positions that the model may have"
        raise ConfigError([Problem("length", wanted, rule, f"leave it out for {info['length']}, or use another model")])
    return wanted


MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def version_of(folder: Path) -> str:
    """The name of what a folder holds: the key of the export that a run made, else a digest of its files.

    Raises:
        DataError: a file cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest is not None and not foreign(folder.absolute()):
        return manifest.key
    digests = [digest(folder / name) for name in MODEL_FILES]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
