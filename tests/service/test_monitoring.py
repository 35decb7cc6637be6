"""The dashboard and the alerts ask for what the service really tells."""

from __future__ import annotations

import itertools
import json
import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cluster.service.limits import ServiceLimits
from components.client import Client
from components.errors import ClusterError
from components.tracking import JsonlTracker
from pipelines.stages.shards import Made
from tests.components.test_export import exported
from tests.served import served

HERE = Path(__file__).parents[2] / "cluster" / "deploy" / "monitoring"
DASHBOARD = json.loads((HERE / "grafana.json").read_text())
RULES = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = DASHBOARD["panels"]
ASKED = [(p["title"], t["expr"]) for p in PANELS for t in p["targets"]] + [(r["alert"], r["expr"]) for r in RULES]

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"[^"\\]*")|(?P<range>\[(?:\$__rate_interval|\d+[smhd])\])|(?P<number>\d+(?:\.\d+)?)
    |(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)|(?P<sign>=~|!=|!~|>=|<=|==|[-+*/(){},=<>]))""",
    re.VERBOSE,
)
FUNCTIONS = {"sum", "max", "rate", "increase", "histogram_quantile", "absent"}
WORDS = {"by", "and"}


def tokens_of(expression: str) -> list[tuple[str, str]]:
    """(kind, text) of an expression of PromQL, which is read to its end."""
    found, at = [], 0
    while at < len(expression.rstrip()):
        match = TOKEN.match(expression, at)
        assert match, f"{expression[at:]!r} is no PromQL"
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def reads(expression: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) that an expression names. Fails where brackets do not match or a name is no known function."""
    metrics, labels, open_brackets = set(), set(), []
    tokens = tokens_of(expression)
    pairs = {")": "(", "}": "{"}
    for (kind, text), (_, after), (_, before) in zip(
        tokens, [*tokens[1:], ("", "")], [("", ""), *tokens[:-1]], strict=True
    ):
        if text in "({" and kind == "sign":
            open_brackets.append("by" if before == "by" else text)
        elif kind == "sign" and text in pairs:
            assert open_brackets.pop() in (pairs[text], "by")
        elif kind == "name" and text not in WORDS:
            inside = open_brackets[-1] if open_brackets else ""
            if inside in ("by", "{"):
                labels.add(text)
            elif after in ("(", "by"):
                assert text in FUNCTIONS, f"{text} is no function that is known here"
            else:
                metrics.add(text)
    assert not open_brackets
    return metrics, labels


def under_way(root: Path, key: str, here: int = 3) -> Path:
    """The folder of a job of ten shards of which three are made, with the journal that the job itself writes.

    Args:
        here: how many of the three were made since the job was started last.
    """
    folder = root / "generate" / key
    folder.mkdir(parents=True)
    free = SimpleNamespace(check=lambda: None)
    made = Made(SimpleNamespace(folder=folder, progress=SimpleNamespace(total=lambda *_: None), fence=free), 10)
    made.finished, made.finished_here = 3, here
    made.waits(2, 1.5)
    return folder


def metrics_of(url: str) -> list[Sample]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, set[str]]:
    """Labels by the names of what /metrics tells after an answer and a refusal, beside a job that is under way."""
    root = tmp_path_factory.mktemp("monitoring")
    exported(root / "model")
    under_way(root, "a" * 16)
    with served(root / "model", tables=root, limits=ServiceLimits(max_rows=2)) as url:
        Client(url).complete("12", sampler="proseco", options={"steps": 4})
        with pytest.raises(ClusterError, match="max_rows"):
            Client(url, retries=0).complete("12", n=3)
        return {sample.name: set(sample.labels) for sample in metrics_of(url)}


@pytest.mark.parametrize(("title", "expression"), ASKED)
def test_every_expression_reads_what_the_service_tells(title, expression, told):
    metrics, labels = reads(expression)
    assert metrics
    assert metrics <= told.keys(), f"{title} reads what is not told"
    for name in metrics:
        assert labels <= told[name], f"{title}: {name} has no labels {labels - told[name]}"


def test_what_is_no_promql_is_noticed():
    for wrong in ("sum by (model) (rate(a[5m])", "rates(a[5m])", "a ? b", "sum(a[5 minutes])"):
        with pytest.raises(AssertionError):
            reads(wrong)


def test_jobs_are_told_by_their_journals_while_they_are_not_finished(tmp_path):
    exported(tmp_path / "model")
    under_way(tmp_path, "a" * 16)
    (under_way(tmp_path, "b" * 16) / "manifest.json").write_text("{}")
    JsonlTracker(under_way(tmp_path, "c" * 16) / "metrics.jsonl").metrics({"of_another": 1.0}, 4)
    with served(tmp_path / "model", tables=tmp_path) as url:
        found = [s for s in metrics_of(url) if s.name in ("proseco_job_shards_left", "proseco_job_queue_age_seconds")]
    label = {"job": f"generate/{'a' * 16}"}
    assert [(s.labels, s.value) for s in found] == [(label, 7.0), (label, 1.5)]


def test_how_long_a_job_takes_is_told_once_it_made_a_shard(tmp_path):
    exported(tmp_path / "model")
    for key, here in (("a", 0), ("b", 3)):
        under_way(tmp_path, key * 16, here)
    with served(tmp_path / "model", tables=tmp_path) as url:
        told = metrics_of(url)
    jobs = {name: [s.labels["job"][-1] for s in told if s.name == f"proseco_job_{name}"] for name in ("shards_left", "seconds_left")}
    assert jobs == {"shards_left": ["a", "b"], "seconds_left": ["b"]}


def test_the_dashboard_can_be_imported_and_no_panels_overlap():
    assert DASHBOARD["uid"] == "proseco"
    assert len({p["id"] for p in PANELS}) == len(PANELS)
    taken = [
        {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        for g in (p["gridPos"] for p in PANELS)
    ]
    assert all(x < 24 for cells in taken for x, _ in cells), "Grafana's grid is 24 wide"
    assert not any(a & b for a, b in itertools.combinations(taken, 2))
    assert all(p["title"] and p["description"] for p in PANELS)


def test_alerts_say_what_to_do():
    assert len({r["alert"] for r in RULES}) == len(RULES) > 5
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
