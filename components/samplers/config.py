"""Options of samplers and of their parts, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.diffusion.config import DrawConfig
from components.errors import Problem


@dataclass(frozen=True)
class AncestralConfig:
    """Every masked position unmasks at a tick drawn ahead, independent of the network."""

    t_end: float = 1e-5
    """The grid runs linearly from 1 to t_end; what is left is filled by one last call."""


@dataclass(frozen=True)
class FixedCountConfig:
    """An even split of the row's masked positions over the ticks, the remainder to the first ones."""


@dataclass(frozen=True)
class RandomConfig:
    """Positions in random order."""


@dataclass(frozen=True)
class ConfidenceConfig:
    """Positions whose drawn token has the highest probability."""


@dataclass(frozen=True)
class NoCorrectorConfig:
    """A token once written stays."""


@dataclass(frozen=True)
class ProsecoCorrectorConfig:
    """ProSeCo's corrector loop."""

    every: int = 1
    """omega: the loop runs at ticks that this divides."""
    passes: int = 1
    """S: corrector calls in one loop, at most."""
    draft: Literal["argmax", "sample"] = "sample"
    """First draft. An argmax draft of an all-mask row is the same for every sample and costs
    diversity; the paper uses it."""
    draft_positions: Literal["masked", "all"] = "masked"
    """Draft visible positions too (the network's raw opinion), or carry them over."""
    inner: Literal["argmax", "sample", "top_k"] = "argmax"
    """Rewriting inside the loop. ``top_k`` changes only the most confident disagreements."""
    inner_top_k: int = 1
    start: int = 1
    """First tick at which the loop may run (burn-in)."""


@dataclass(frozen=True)
class SamplerConfig:
    """One sampler, made of parts."""

    preset: str = "mdlm"
    steps: int = 32
    """T: unmasking ticks. Calls are counted by the engine; ticks without an event need none."""
    schedule: Any = field(default_factory=AncestralConfig)
    unmask: Any = field(default_factory=RandomConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    corrector: Any = field(default_factory=NoCorrectorConfig)

    def problems(self, path: str) -> list[Problem]:
        """Rules inside one sampler."""
        found: list[Problem] = []

        def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
            if not holds:
                found.append(Problem(f"{path}.{name}", value, rule, remedy))

        draw = self.draw
        check(self.steps >= 1, "steps", self.steps, "at least 1", "set the number of unmasking ticks")
        check(draw.temperature >= 0, "draw.temperature", draw.temperature, "0 or more", "use 0 for argmax")
        check(0 < draw.top_p <= 1, "draw.top_p", draw.top_p, "in (0, 1]", "use 1 to keep all tokens")
        check(draw.top_k >= 0, "draw.top_k", draw.top_k, "0 or more", "use 0 to keep all tokens")
        if isinstance(self.schedule, AncestralConfig):
            t_end = self.schedule.t_end
            check(0 <= t_end < 1, "schedule.t_end", t_end, "in [0, 1)", "the released code uses 1e-5")
            check(
                isinstance(self.unmask, RandomConfig),
                "unmask.name",
                type(self.unmask).__name__.removesuffix("Config").lower(),
                "the ancestral schedule draws positions itself, uniformly",
                "use schedule.name=fixed_count for an order by confidence",
            )
        c = self.corrector
        if isinstance(c, ProsecoCorrectorConfig):
            check(c.every >= 1, "corrector.every", c.every, "at least 1", "1 corrects at every tick")
            check(c.passes >= 1, "corrector.passes", c.passes, "at least 1", "use corrector.name=none for 0")
            check(c.start >= 1, "corrector.start", c.start, "at least 1", "ticks are numbered from 1")
            check(c.inner_top_k >= 1, "corrector.inner_top_k", c.inner_top_k, "at least 1", "1 is the gentlest")
            first = -(-max(c.start, c.every) // c.every) * c.every if c.every >= 1 else 1
            check(
                first <= self.steps,
                "corrector.every",
                c.every,
                f"the corrector would never run: its first tick is {first} of {self.steps}",
                "raise steps, or lower corrector.every or corrector.start",
            )
        return found
