"""What the door counts and what the engine tells of itself, as Prometheus reads it: no identifier, no controller, no value."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.deployment import Deployment
from engine.runtime import RuntimeFault

# A withdrawal through the door denies at once; this is how long until the state itself denies. 5 s is the freshness limit.
FOLD_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one door, in a registry of its own, so that tests can have many doors."""

    def __init__(self, service: Deployment, marks: Callable[[], int], failures: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.calls = self._counter("http_requests", "HTTP calls by route and status.", "call", "status")
        self.events = self._counter("events_accepted", "Events answered 202, by type.", "type")
        self.refused = self._counter("events_refused", "Events answered otherwise, by code.", "code")
        self.decisions = self._counter("decisions", "Decisions by use and verdict.", "use", "verdict")
        self.reasons = self._counter("decision_reasons", "Reasons of denials.", "use", "reason")
        self.folds = Histogram(
            "consentinel_withdrawal_to_block_seconds", "From a withdrawal's acceptance until the state itself denies.",
            buckets=FOLD_BUCKETS, registry=self.registry,
        )  # fmt: skip
        Gauge("consentinel_marks", "Deny-only marks that stand.", registry=self.registry).set_function(marks)
        failed = Gauge("consentinel_auth_failures", "Calls without a valid token since the start.", registry=self.registry)
        failed.set_function(failures)
        self.registry.register(_Engine(service))

    def _counter(self, name: str, docs: str, *labels: str) -> Counter:
        return Counter(f"consentinel_{name}", docs, labels, registry=self.registry)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Engine(Collector):
    """Reads the engine's own figures at each scrape."""

    def __init__(self, service: Deployment) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's metrics; a store that cannot be read leaves its lag out."""
        service = self._service
        yield GaugeMetricFamily("consentinel_up", "1 while the engine runs.", 1.0 if service.failed is None else 0.0)
        yield GaugeMetricFamily("consentinel_ready", "1 once all that was there at the start is folded.", float(service.ready))
        beat_ms = service.beat_ms()
        age = (service.clock() - beat_ms) / 1000 if beat_ms else float("inf")
        yield GaugeMetricFamily("consentinel_beat_age_seconds", "How old the state is that decisions look at.", age)
        yield CounterMetricFamily("consentinel_turns", "Turns of the task loop that did something.", service.turns)
        yield from self._counts(service.counts)
        lag = GaugeMetricFamily("consentinel_lag_records", "Records not read yet.", labels=["task", "topic", "partition"])
        try:
            for (task, topic, partition), count in service.lag().items():
                lag.add_metric([task, topic, str(partition)], count)
        except RuntimeFault:
            return
        yield lag

    def _counts(self, counts: Mapping[tuple[str, ...], int]) -> Iterator[Metric]:
        folded = CounterMetricFamily("consentinel_records_folded", "Records folded, by task.", labels=["task"])
        quarantined = CounterMetricFamily("consentinel_quarantined", "Records quarantined, by code.", labels=["code"])
        faults = CounterMetricFamily("consentinel_processor_faults", "Bugs met, by processor.", labels=["processor"])
        other = CounterMetricFamily("consentinel_engine", "The engine's further counters.", labels=["name"])
        labelled = {"folded": folded, "quarantined": quarantined, "processor_faults": faults}
        for name, count in counts.items():
            if name == ("turn_us",):
                yield CounterMetricFamily("consentinel_turn_seconds", "Time spent in turns.", count / 1e6)
            elif len(name) == 2 and name[0] in labelled:
                labelled[name[0]].add_metric([name[1]], count)
            else:
                other.add_metric(["_".join(name)], count)
        yield from (folded, quarantined, faults, other)
