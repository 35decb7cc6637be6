"""Everything that a GPU must do as a CPU does, and how fast it is: ``make gpu``.

    python -m tests.gpu.check --device cuda --out runs/gpu

Writes gpu.json and gpu.html into the folder, and exits with 1 where something failed. Where the device is not there it
says so in a sentence and exits with 0. With ``--device cpu`` every part runs on the CPU, which tries the parts
themselves.
"""

from __future__ import annotations

import argparse
import html
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from components.evaluation.page import Section, page, table
from components.models.device import device_problems
from tests.gpu import kernels, objectives, samplers, speed, training, waiting
from tests.gpu.outcome import Outcome

PARTS: dict[str, Callable[[str], Iterator[Outcome]]] = {
    module.PART: module.outcomes for module in (kernels, samplers, objectives, waiting, training, speed)
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a GPU must do as a CPU does.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.json and gpu.html")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args(arguments)
    if lost := device_problems(asked.device):
        print(f"Skipped: the device {asked.device} is not here (needed: {lost[0].rule}), so nothing was checked.")
        return 0
    torch.set_num_threads(1)
    found = []
    for part in asked.parts:
        own = list(PARTS[part](asked.device))
        found += own
        print(
            f"{part:<12} {Counter(o.ok for o in own)[True]} of {len(own)} passed in {sum(o.seconds for o in own):.0f} s"
        )
    write(asked.out, asked.device, found)
    failed = [o for o in found if not o.ok]
    for outcome in failed:
        print(f"FAILED {outcome.part}: {outcome.name}: {outcome.said}")
    print(f"wrote {asked.out / 'gpu.json'} and {asked.out / 'gpu.html'}")
    return int(bool(failed))


def write(folder: Path, device: str, found: Sequence[Outcome]) -> None:
    """The numbers for programs, and the page for people."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {
        "device": device,
        "name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU",
        "torch": torch.__version__,
        "passed": sum(o.ok for o in found),
        "failed": sum(not o.ok for o in found),
        "seconds": round(sum(o.seconds for o in found), 1),
    }
    text = json.dumps({**machine, "outcomes": [asdict(o) for o in found]}, indent=1)
    (folder / "gpu.json").write_text(text, encoding="utf-8")
    heads = ("what", "result", "seconds", "")
    sections = [
        Section(
            html.escape(part),
            table(heads, [(o.name, o.said, o.seconds, "" if o.ok else "failed") for o in found if o.part == part]),
        )
        for part in dict.fromkeys(o.part for o in found)
    ]
    subtitle = f"{machine['name']}, torch {machine['torch']}: {machine['passed']} passed, {machine['failed']} failed"
    (folder / "gpu.html").write_text(page(f"Checks on {device}", subtitle, sections), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
