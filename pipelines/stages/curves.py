"""How trainings went, as curves. Bounds are drawn together only where they are bounds of one kind."""

from __future__ import annotations

import html
import itertools
from pathlib import Path

from components.evaluation.chart import Point, Series, line_chart
from components.tracking import JOURNAL, read_metrics
from pipelines.graph.stage import Context
from pipelines.stages.spec import ReportSpec, Trained

Rows = list[dict[str, float]]


def learning(config: ReportSpec, context: Context) -> str:
    """Validation bounds against work, training bounds against steps, and what the corrector does."""
    journals = {name: read_metrics(context.inputs[f"train_{name}"] / JOURNAL) for name in config.trained}
    validated = [against_work(name, rows, config.trained[name]) for name, rows in journals.items()]
    parts = [
        "<h3>Bound on validation rows</h3><p>One estimator for all, whatever was trained, so these compare. Work counts the "
        "forward-backwards of a batch, those of what a training started from included.</p>",
        line_chart(validated, "forward-backwards", "bound, nats per token", marks=True),
    ]
    kinds = dict.fromkeys((t.objective, t.t_min) for t in config.trained.values())
    for objective, t_min in kinds:
        own = [n for n, t in config.trained.items() if (t.objective, t.t_min) == (objective, t_min)]
        series = [curve(name, journals[name], "nll_bound") for name in own]
        if any(s.points for s in series):
            parts.append(f"<h3>Bound while training: {html.escape(objective)}, times from {t_min:g}</h3>")
            parts.append(line_chart(series, "optimiser step", "bound, nats per token", marks=False))
    correcting = [curve(f"{n}: mended", rows, "fix_rate") for n, rows in journals.items()]
    correcting += [curve(f"{n}: broken", rows, "break_rate", dashed=True) for n, rows in journals.items()]
    if any(s.points for s in correcting):
        parts.append("<h3>Corrector: share of wrong draft tokens made right, and of right ones made wrong</h3>")
        parts.append(line_chart(correcting, "optimiser step", "share", marks=False))
    return "".join(parts)


def against_work(name: str, rows: Rows, trained: Trained) -> Series:
    """The validation bound of a training."""
    column = "validation/nll_bound"
    points = (Point(trained.before + trained.passes * r["step"], r[column]) for r in rows if column in r)
    return Series(name, tuple(points))


def curve(name: str, rows: Rows, column: str, dashed: bool = False) -> Series:
    return Series(name, tuple(Point(r["step"], r[column]) for r in rows if column in r), dashed)


def seconds_of(folder: Path) -> float:
    """How long a training was at it, by its journal: the time between rows, without pauses of more than ten minutes."""
    times = [row["time_s"] for row in read_metrics(folder / JOURNAL) if "time_s" in row]
    return sum(step for a, b in itertools.pairwise(times) if 0 < (step := b - a) < PAUSE_S)


PAUSE_S = 600.0
"""Between two rows, where a training was killed and taken up again."""
