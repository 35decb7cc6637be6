"""The newest numbers of a journal in a few words, for a bar, a line or another terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

FORMS: Mapping[str, Callable[[float], str]] = {
    "validation/nll": "bound {:.3f}".format,
    "fix_rate": "mends {:.0%} of errors".format,
    "break_rate": "breaks {:.1%}".format,
    "tokens_per_s": lambda rate: f"{in_thousands(rate)} tokens/s",
    "machine_share": "{:.0%} of the machine".format,
    "rows_per_s": lambda rate: f"{in_thousands(rate)} rows/s",
    "calls": "{:.2f} calls a row".format,
    "edits": "{:.2f} corrections".format,
}
"""What is shown where it is known, in this order, behind the loss."""


def in_short(rows: Sequence[Mapping[str, float]]) -> str:
    """What the last rows of a journal say; empty where they say nothing of the kind."""
    merged: dict[str, float] = {}
    for row in rows:
        merged |= row
    losses = [value for name, value in merged.items() if name.startswith("loss/")]
    words = [f"loss {sum(losses):.3f}"] if losses else []
    words += [form(merged[name]) for name, form in FORMS.items() if name in merged]
    return ", ".join(words)


def in_thousands(rate: float) -> str:
    """A rate with three digits."""
    return f"{rate / 1000:.3g}k" if rate >= 1000 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """E.g. 1 h 05 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
