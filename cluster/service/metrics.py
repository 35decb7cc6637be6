"""Numbers for Prometheus: of the application itself, and of every replica, with its name as a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.service.backend import ReplicaNumbers
from cluster.service.shelf import Shelf

LANES = ("people", "batch")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

Read = Callable[[ReplicaNumbers], float]

GAUGES: dict[str, tuple[str, Callable[[ReplicaNumbers], tuple[float, float]]]] = {
    "proseco_rows_waiting": ("Rows that wait for a lane.", lambda n: n.engine.waiting),
    "proseco_rows_running": ("Rows that have a lane.", lambda n: n.engine.running),
    "proseco_queue_age_seconds": ("Age of the oldest row that has not ended.", lambda n: n.ages_s),
}
COUNTERS: dict[str, tuple[str, Read]] = {
    "proseco_rows": ("Rows that have ended.", lambda n: n.engine.rows),
    "proseco_rows_failed": ("Rows that ended with an error.", lambda n: n.engine.failed),
    "proseco_calls": ("Calls of the network by rows that have ended.", lambda n: n.engine.calls),
    "proseco_useful_tokens": ("Tokens that were written and are in a text.", lambda n: n.engine.useful),
    "proseco_corrections": ("Visible tokens that were replaced or masked again.", lambda n: n.engine.corrections),
    "proseco_forwards": ("Forwards of the network.", lambda n: n.forwards),
    "proseco_forward_lanes": ("Inputs of all forwards, padding included.", lambda n: n.lanes),
    "proseco_forward_lanes_idle": ("Inputs of forwards that nobody asked for.", lambda n: n.lanes - n.engine.inputs),
    "proseco_shards": ("Shards of batch jobs.", lambda n: n.shards),
}


class Replicas(Collector):
    """Numbers of replicas as they were told last."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ReplicaNumbers]] = []
        """(model, numbers)."""

    def collect(self) -> Iterable[Metric]:
        yield from self.gauges()
        for name, (text, read) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model", "replica"])
            for model, numbers in self.told:
                counter.add_metric([model, numbers.replica], read(numbers))
            yield counter

    def gauges(self) -> Iterator[Metric]:
        for name, (text, read) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model", "replica", "lane"])
            for model, numbers in self.told:
                for lane, value in zip(LANES, read(numbers), strict=True):
                    gauge.add_metric([model, numbers.replica, lane], value)
            yield gauge
        waste = GaugeMetricFamily(
            "proseco_padding_waste", "Idle lanes / lanes of all forwards.", labels=["model", "replica"]
        )
        for model, numbers in self.told:
            if numbers.lanes:
                waste.add_metric([model, numbers.replica], 1 - numbers.engine.inputs / numbers.lanes)
        yield waste


class Versions(Collector):
    """Which version of each model is served, and what became of those that were tried."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf

    def collect(self) -> Iterable[Metric]:
        served = GaugeMetricFamily("proseco_model_version", "1 for every version.", labels=["model", "version", "on_trial"])
        for name, place in self.shelf.places.items():
            served.add_metric([name, place.model.version, "no"], 1)
            if (trial := place.trial) is not None:
                served.add_metric([name, trial.version, "yes"], 1)
        yield served
        trials = CounterMetricFamily("proseco_trials", "New versions that were tried.", labels=["model", "outcome"])
        for name in self.shelf.names:
            for outcome in ("taken", "refused"):
                trials.add_metric([name, outcome], self.shelf.outcomes[name, outcome])
        yield trials


class Metrics:
    """All numbers of one application."""

    def __init__(self, shelf: Shelf) -> None:
        self.registry = CollectorRegistry()
        self.replicas = Replicas()
        self.registry.register(self.replicas)
        self.registry.register(Versions(shelf))
        self.requests = Counter(
            "proseco_requests", "Requests that were answered.", ["route", "code"], registry=self.registry
        )
        self.refused = Counter(
            "proseco_refused",
            "Requests that found no room (503) or went over what their key may (429).",
            ["code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "proseco_request_seconds", "Seconds from the head of a request to the end of its answer.", ["route"],
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip

    def answered(self, route: str, code: int, seconds: float) -> None:
        self.requests.labels(route, str(code)).inc()
        self.seconds.labels(route).observe(seconds)
        if code in (429, 503):
            self.refused.labels(str(code)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
