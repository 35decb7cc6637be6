"""A model to hand on: the exported folder as it is, with a card that says what it was made of and how well it does.

All of it is read from the root that the export lies in: the corpora and trainings below it, and the comparisons above it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.corpora import CORPORA
from components.errors import CorruptArtifact, ModelError, StoreError
from components.evaluation.best import as_measured
from components.store.artifact import IDENTITY, MANIFEST, Manifest, read_manifest, require_unchanged
from components.store.files import children, exists, folders, is_local, read_bytes, read_json, read_text
from pipelines.provenance import made_by

UNKNOWN = "unknown"
KEPT = (MANIFEST, IDENTITY)
"""Of the root, and not of the model."""


@dataclass(frozen=True)
class Corpus:
    """What a model was trained on."""

    name: str
    source: Mapping[str, Any]
    documents: int
    tokens: int
    digest: str
    """Of its rows."""


def hand_on(export: Path, to: Path, name: str, licence: str) -> None:
    """Copy an export to a new folder, with a full card.

    Raises:
        ModelError: the folder is no export of a run.
        CorruptArtifact: it was changed since.
        StoreError: the new folder is there already.
    """
    export = export.resolve() if is_local(export) else export  # it may be given by a link
    manifest = read_manifest(export)
    if manifest is None or manifest.stage != "export":
        raise ModelError(f"{export} is no export of a run (`proseco show RUN --json` names them).")
    require_unchanged(export)
    if exists(to):
        raise StoreError(f"{to} is there already, and is left as it is. Name another folder, or remove it.")
    root = export.parent.parent
    text = card(export, manifest, root, name or to.name, licence)
    try:
        to.mkdir(parents=True)
        for file in children(export):
            if file.name not in KEPT and not file.name.startswith("."):
                (to / file.name).write_bytes(read_bytes(file))
        (to / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{to} can not be written ({error.strerror}). Name another place.") from None


def card(export: Path, manifest: Manifest, root: Path, name: str, licence: str) -> str:
    """The model card."""
    config = json.loads(read_text(export / "config.json"))
    train = manifest_of(root, "train", manifest.inputs["train"])
    corpora = list(corpora_of(root, train))
    results = list(results_of(root, manifest.key))
    alone = "auto_map" in config
    front = ["---", "library_name: transformers", f"license: {licence or UNKNOWN}", "tags: [dllm, masked-diffusion, proseco]", "---"]
    lines = [*front, f"# {name}", "", *origin(config, root, train), "", "## Data", "", *data(corpora), "", "## Results", "", *quality(results)]
    lines += ["", "## Corrections", "", *corrections(results), "", "## Sampling", "", *sampling(results, alone), "", "## Limits", ""]
    lines += [
        f"It knows rows of {config['length']} tokens, and what it writes is checked by nobody. "
        + ("" if licence else "Nobody has said under which licence it may be used: that of its data has to allow it, too."),
        "",
        f"Made by {made_by()}; key {manifest.key}, seal {manifest.seal}.",
        "",
    ]
    return "\n".join(lines)


def origin(config: Mapping[str, Any], root: Path, train: Manifest) -> list[str]:
    """How it was trained."""
    told = plain(root, "train", train.key)["train"]
    corrects = (
        "It was trained at visible positions, so correctors that replace tokens work on it."
        if config["visible_supervision"]
        else "It was never trained at visible positions: do not use correctors that replace tokens."
    )
    numbers = {k: v for k, v in train.info.items() if isinstance(v, int | float)}
    size = f"{config['dim']} wide, {config['depth']} blocks, {int(numbers.pop('parameters', 0)):,} weights, a vocabulary of {config['vocab_size']:,}"
    return [
        f"A masked diffusion language model: {size}. Trained with **{config['trained_with']}** for {told['steps']:,} steps of {told['batch_rows']} rows "
        f"in {train.seconds / 60:.1f} minutes. {corrects}",
        "",
        "| at the end of training | |",
        "|---|---|",
        *(f"| {key} | {value:.6g} |" for key, value in sorted(numbers.items())),
    ]


def data(corpora: Sequence[Corpus]) -> Iterator[str]:
    for c in corpora:
        source = ", ".join(f"{k} {v}" for k, v in c.source.items() if v not in ("", None, False))
        yield f"- **{c.name}**: {c.documents:,} documents, {c.tokens:,} tokens; {source}; rows {c.digest}"


def quality(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not results:
        yield "It was compared with nothing."
        return
    metric = results[0]["metric"]
    yield f"| sampler | steps | calls | {metric} | 95% interval | different samples | samples |"
    yield "|---|---|---|---|---|---|---|"
    for r in results:
        value, low, high = as_measured(r)
        yield f"| {r['sampler']} | {r['steps']} | {r['calls']:.2f} | {value:.3f} | {low:.3f} to {high:.3f} | {r['unique']:.1%} | {r['num_samples']:,} |"


def corrections(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What edits of visible tokens did."""
    edited = [r for r in results if r["edits"] > 0]
    if not edited:
        yield "No sampler that it was measured with changed a written token."
        return
    yield "| sampler | steps | edits a sample | samples edited | traced changes that stayed |"
    yield "|---|---|---|---|---|"
    for r in edited:
        stayed = f"{r['traced_kept']} of {r['traced_changes']}" if r["traced_changes"] else "-"
        yield f"| {r['sampler']} | {r['steps']} | {r['edits']:.2f} | {r['edited']:.1%} | {stayed} |"


def sampling(results: Sequence[Mapping[str, Any]], alone: bool) -> Iterator[str]:
    """Code for those who have this project, and for those who have not."""
    best = max(results, key=lambda r: r["quality"], default=None)
    how = f', sampler="{best["preset"]}", steps={best["steps"]}' if best and best["steps"] else ""
    yield from ("    from components.api import load, sample", f'    rows = sample(load("."), num_samples=4{how})')
    if alone:
        yield from (
            "",
            "Without proseco the folder's own code is run, so look at it first; the tokenizer needs none:",
            "",
            "    from transformers import AutoModelForMaskedLM, AutoTokenizer",
            '    tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=False)',
            '    model = AutoModelForMaskedLM.from_pretrained(".", trust_remote_code=True)',
        )


def manifest_of(root: Path, stage: str, key: str) -> Manifest:
    """Raises CorruptArtifact where a stage that an export was made of is not there any more."""
    found = read_manifest(root / stage / key)
    if found is None:
        raise CorruptArtifact(f"{root / stage / key}, which the export was made of, is not there. Run its run again.")
    return found


def plain(root: Path, stage: str, key: str) -> Any:
    """The config of a stage, from its identity."""
    return read_json(root / stage / key / IDENTITY)["identity"]["config"]


def corpora_of(root: Path, train: Manifest) -> Iterator[Corpus]:
    """Those that a training read."""
    for role, key in train.inputs.items():
        if role.startswith("rows_"):
            made = manifest_of(root, "tokenize", key)
            source = plain(root, "tokenize", key)["corpus"]["source"]
            kind = next((n for n, card in CORPORA.items() if card.__name__ == source.get("type")), source.get("type"))
            source = {"source": kind} | {k: v for k, v in source.items() if k != "type"}
            yield Corpus(role.removeprefix("rows_"), source, int(made.info["documents"]), int(made.info["tokens"]), made.result)


def results_of(root: Path, key: str) -> Iterator[dict[str, Any]]:
    """The lines of comparisons that are about an export."""
    for folder in folders(root / "evaluate"):
        made = read_manifest(folder)
        for role, samples in (made.inputs if made is not None else {}).items():
            table = read_manifest(root / "generate" / samples) if role.startswith("samples_") else None
            if made is not None and table is not None and table.inputs.get("model") == key:
                yield made.info["results"][int(role.removeprefix("samples_"))]
