"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from components.evaluation.best import TOLERANCE, Pair, as_measured, difference, in_words, ratio

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #667; --line: #d5d9e0; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #99a; --line: #3a4048; --paper: #15181c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1060px;
       margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin-bottom: .3rem }
.scroll { overflow-x: auto; margin: .6rem 0 } .scroll:focus-visible { outline: 2px solid #56b4e9 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: normal }
th { vertical-align: bottom; line-height: 1.25 } th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper) }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
tr.best td { font-weight: 600 } .quiet, small { color: var(--quiet) }
figure { margin: 0 } svg { width: 100%; max-width: 760px } td { white-space: nowrap } svg text { font-size: 12px; fill: var(--quiet) }
svg .axis { font-size: 12px; fill: var(--ink) } svg .grid { stroke: var(--line); stroke-width: .6 }
.legend span { margin-right: 1.2rem; white-space: nowrap }
.legend i { display: inline-block; width: 22px; border-top: 3px solid; vertical-align: middle; margin-right: .4rem }
.frames { display: flex; flex-wrap: wrap; gap: .8rem } .frame { max-width: 100%; overflow-x: auto } .cells { display: grid; grid-template-columns: repeat(var(--columns), auto); gap: 1px; width: max-content }
.cells b { min-width: 1.15em; height: 1.35em; line-height: 1.35em; text-align: center; font: 13px/1.4 ui-monospace, monospace; background: color-mix(in srgb, var(--line) 45%, transparent) }
b.revealed { background: #56b4e9 !important; color: #000 } b.replaced { background: #e69f00 !important; color: #000 }
b.remasked { background: #cc79a7 !important; color: #000 }
b.prompt { color: var(--quiet) } .running pre { white-space: pre-wrap; font-size: 12px; border-left: 3px solid var(--line); padding-left: .6rem; margin: .2rem 0 }
.running b { font-weight: 400 } .key b { padding: 0 .4em; font-weight: 400 }
.headline { font-size: 1.15rem; border-left: 4px solid #56b4e9; padding-left: .8rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0 } dt { color: var(--quiet) } dd { margin: 0 }
details pre { font-size: 12px; overflow: auto }
@media print { body { max-width: none } .scroll { overflow: visible } td { white-space: normal } }
/* A chart is drawn 640 wide: what is set in a telephone's 360 pixels needs letters that are almost twice as large. */
@media (max-width: 640px) { body { margin: 1rem auto; padding: 0 .8rem } svg text { font-size: 20px } svg .axis { font-size: 21px }
  th, td { padding: .2rem .45rem } .legend span { margin-right: .8rem } }
"""


NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Section:
    title: str
    body: str
    """HTML."""


def page(title: str, subtitle: str, sections: Sequence[Section], headline: str = "", facts: Mapping[str, str] = NOTHING) -> str:
    """The whole file.

    Args:
        headline: what it comes to, in a sentence.
        facts: what a reader wants to know first, by name.
    """
    told = f"<p class='headline'>{html.escape(headline)}</p>" if headline else ""
    told += "".join(["<dl>", *(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()), "</dl>"]) if facts else ""
    body = "".join(f"<h2>{html.escape(s.title)}</h2>{s.body}" for s in sections)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p class='quiet'>{html.escape(subtitle)}</p>{told}{body}</html>"
    )


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Quality and cost of every sampler; the best of each model is set in bold."""
    best = {
        m: max((r for r in results if r["model"] == m), key=lambda r: r["quality"])
        for m in {r["model"] for r in results}
    }
    heads = (
        "sampler", "model", "steps", "calls", results[0]["metric"], "95% interval", "unique", "entropy", "edits",
        "samples", "training passes",
    )  # fmt: skip
    rows = [
        (
            r["sampler"], r["model"], r["steps"], f"{r['calls']:.2f}", *measured(r), f"{r['unique']:.3f}", f"{r['entropy']:.3f}",
            f"{r['edits']:.2f}", r["num_samples"], r["passes"],
        )
        for r in results
    ]  # fmt: skip
    return table(heads, rows, {i for i, r in enumerate(results) if best[r["model"]] is r})


def measured(row: Mapping[str, Any]) -> tuple[str, str]:
    """The metric of a row, and its interval."""
    quality, low, high = as_measured(row)
    return f"{quality:.3f}", f"{low:.3f} to {high:.3f}"


def best_table(pairs: Sequence[Pair]) -> str:
    """The best of each model at nearly equal calls, and in words what edits can have to do with the gain."""
    rows = []
    for pair in pairs:
        found = ratio(pair)
        value, low, high = found or difference(pair)
        form = "{:.2f}" if found else "{:+.3f}"
        compared = f"{form.format(value)} ({form.format(low)} to {form.format(high)})"
        rows += [
            (
                r["sampler"], r["model"], r["steps"], f"{r['calls']:.2f}", *measured(r), f"{r['unique']:.3f}", f"{r['edits']:.2f}", last,
            )
            for r, last in ((pair.reference, ""), (pair.row, compared))
        ]  # fmt: skip
    metric = pairs[0].row["metric"]
    heads = ("sampler", "model", "steps", "calls", metric, "95% interval", "unique", "edits", "ratio or difference")
    said = (
        f"<p>Calls within {TOLERANCE:.0%} of each other. Ratios of shares have 95% intervals by the delta method on their "
        "logarithm, over the samples of all seeds.</p>"
    )
    words = "".join(f"<li>{html.escape(in_words(pair))}</li>" for pair in pairs)
    return f"{said}{table(heads, rows)}<ul>{words}</ul>"


def edits_table(results: Sequence[Mapping[str, Any]]) -> str:
    """What changes of visible tokens did, for the samplers that made some; nothing where none did."""
    edited = [r for r in results if r["edits"] > 0]
    if not edited:
        return ""
    metric = edited[0]["metric"]
    heads = (
        "sampler", "model", "steps", "edits a sample", "samples edited", f"{metric} if edited", f"{metric} if not",
        "changes that stayed",
    )  # fmt: skip
    rows = [
        (
            r["sampler"], r["model"], r["steps"], f"{r['edits']:.2f}", f"{r['edited']:.1%}",
            number_or_dash(r["quality_edited"]), number_or_dash(r["quality_unedited"]),
            f"{r['traced_kept']} of {r['traced_changes']}" if r["traced_changes"] else "-",
        )
        for r in edited
    ]  # fmt: skip
    said = (
        "<h3>What edits did</h3><p>An edit replaces a visible token or masks it again. Edited and other samples are "
        "different samples, and hard ones are edited more often. The last column counts positions of traced rows that "
        "were changed, and those of them that end with another token than before.</p>"
    )
    return said + table(heads, rows)


def number_or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], bold: Collection[int] = ()) -> str:
    """Cells as they are written; the rows of the given numbers are set in bold. Where the page is narrower, the table
    scrolls in a box of its own, also by the keyboard."""

    def line(tag: str, cells: Sequence[Any]) -> str:
        return "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)

    body = (f"<tr{' class=best' if i in bold else ''}>{line('td', row)}</tr>" for i, row in enumerate(rows))
    lines = f"<tr>{line('th', heads)}</tr>{''.join(body)}"
    return f"<div class='scroll' tabindex='0'><table>{lines}</table></div>"


def folded(title: str, value: Any) -> str:
    """A value as JSON, behind a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(json.dumps(value, indent=1))}</pre></details>"
