"""What a worker tells Prometheus of its engine, its lag, the edges and the read model: no identifier, no controller, no value."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from connectors.faust.edges import Edge
from engine.kafka.names import Unit
from engine.kafka.worker import Figures, Histogram, Lag

T = TypeVar("T")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LOOKS_MAX: Final = 5  # at what other threads change meanwhile


class Engine(Protocol):
    """What is looked at of `engine.kafka.worker.Worker`."""

    failed: str | None
    reason: str

    @property
    def ready(self) -> bool:
        """Assigned and restored."""
        ...

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """Leave the group, flush the stores. Safe to call twice."""
        ...

    def lag(self) -> list[Lag]:
        """See `Worker`."""
        ...

    def figures(self) -> Figures:
        """See `Worker`."""
        ...


class Feed(Protocol):
    """What is looked at of the read model's writer."""

    failed: str | None
    last_error: str | None
    lag: dict[Unit, int]
    applied: int

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """Leave the group. Safe to call twice."""
        ...


class Metrics(Collector):
    """Everything is read when it is asked for."""

    def __init__(self, engine: Engine, feed: Feed | None, edges: Sequence[Edge]) -> None:
        self._engine, self._feed, self._edges = engine, feed, edges
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        engine = self._engine
        yield GaugeMetricFamily("consentinel_up", "1 while the engine runs.", float(engine.failed is None))
        yield GaugeMetricFamily("consentinel_ready", "1 once all that this worker was given is restored.", float(engine.ready))
        yield from _lag(settled(engine.lag))
        yield from _figures(settled(engine.figures))
        yield from self._of_edges()
        if self._feed is not None:
            yield from _read_model(self._feed)

    def _of_edges(self) -> Iterator[Metric]:
        taken = CounterMetricFamily("consentinel_edge_deliveries", "Events that the receiver took.", labels=["topic"])
        failed = CounterMetricFamily("consentinel_edge_failures", "Attempts that failed.", labels=["topic", "reason"])
        waiting = GaugeMetricFamily(
            "consentinel_edge_waiting_seconds", "For how long the event at hand has been failing.", labels=["topic"]
        )
        for edge in self._edges:
            taken.add_metric([edge.kind.topic], edge.delivered)
            waiting.add_metric([edge.kind.topic], edge.waiting_secs)
            for reason, count in edge.failures.items():
                failed.add_metric([edge.kind.topic, reason], count)
        yield from (taken, failed, waiting)


def settled(look: Callable[[], T]) -> T:
    """What `look` finds; again when the engine's threads have changed a table under it."""
    for _ in range(LOOKS_MAX):
        try:
            return look()
        except RuntimeError:
            continue
    return look()


def _lag(lag: Sequence[Lag]) -> Iterator[Metric]:
    records = GaugeMetricFamily("consentinel_lag_records", "Records not folded yet.", labels=["task", "topic", "partition"])
    secs = GaugeMetricFamily(
        "consentinel_lag_seconds", "Age of the time up to which a task partition is complete.", labels=["task", "partition"]
    )
    ages: dict[tuple[str, int], float] = {}
    for one in lag:
        records.add_metric([one.task, one.topic, str(one.partition)], one.records)
        if one.secs is not None:
            ages[one.task, one.partition] = one.secs
    for (task, partition), age in ages.items():
        secs.add_metric([task, str(partition)], age)
    yield from (records, secs)


def _figures(figures: Figures) -> Iterator[Metric]:
    yield GaugeMetricFamily("consentinel_units", "Task partitions that the group gave to this worker.", figures.units)
    yield CounterMetricFamily("consentinel_transactions", "Transactions committed.", figures.transactions)
    aborts = CounterMetricFamily("consentinel_transaction_aborts", "Transactions lost, by reason.", labels=["reason"])
    for reason, count in figures.aborts.items():
        aborts.add_metric([reason], count)
    yield aborts
    yield _histogram("consentinel_batch_records", "Records and alarms of one turn.", figures.batch_records)
    yield _histogram("consentinel_batch_seconds", "Time that one turn took, its commit included.", figures.batch_secs)
    yield CounterMetricFamily("consentinel_restored_records", "Changelog records read to restore stores.", figures.restored)
    restoring = GaugeMetricFamily(
        "consentinel_restore_records_remaining", "Changelog records to go.", labels=["task", "partition"]
    )
    for unit, count in figures.restoring.items():
        restoring.add_metric([unit.task, str(unit.partition)], count)
    yield restoring
    yield from _counts(figures.counts)


def _histogram(name: str, docs: str, histogram: Histogram) -> Metric:
    totals = [float(total) for total in accumulate(histogram.counts)]
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    return HistogramMetricFamily(name, docs, buckets=list(zip(bounds, totals, strict=True)), sum_value=histogram.total)


def _counts(counts: Mapping[tuple[str, ...], int]) -> Iterator[Metric]:
    folded = CounterMetricFamily("consentinel_records_folded", "Records folded, by task.", labels=["task"])
    quarantined = CounterMetricFamily("consentinel_quarantined", "Records quarantined, by code.", labels=["code"])
    faults = CounterMetricFamily("consentinel_processor_faults", "Bugs met, by processor.", labels=["processor"])
    other = CounterMetricFamily("consentinel_engine", "The engine's further counters.", labels=["name"])
    labelled = {"folded": folded, "quarantined": quarantined, "processor_faults": faults}
    for name, count in counts.items():
        if len(name) == 2 and name[0] in labelled:
            labelled[name[0]].add_metric([name[1]], count)
        else:
            other.add_metric(["_".join(name)], count)
    yield from (folded, quarantined, faults, other)


def _read_model(feed: Feed) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "consentinel_read_model_lag_records", "Changelog offsets that the read model is behind.", labels=["task", "partition"]
    )
    for unit, count in dict(feed.lag).items():
        lag.add_metric([unit.task, str(unit.partition)], count)
    yield lag
    yield CounterMetricFamily("consentinel_read_model_records", "Changelog records written to the read model.", feed.applied)
    yield GaugeMetricFamily("consentinel_read_model_stalled", "1 while it cannot go on.", float(feed.last_error is not None))
