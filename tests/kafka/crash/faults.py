"""Faults, and an audit that lets them happen at random moments under load and then asks the verifier.

    kill          SIGKILL to a worker; it comes back at once, or after another has taken over
    die           a worker kills itself (-9) before a step of a commit
    term          SIGTERM to a worker
    stop          SIGSTOP for longer than the session time-out, then SIGCONT
    zombie        the same, before a step of a commit: it wakes up in the middle of a transaction
    join          a third worker comes, and leaves later
    broker        the broker ends by SIGTERM and comes back
    broker-kill   the broker is killed (-9) and comes back

The moments are random, the kinds and the victims follow from the seed.
"""

import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple, Self

from engine.kafka.connection import Connection
from tests.kafka.crash.crew import Crew, Offsets, Publisher, until
from tests.kafka.crash.job import PARTITIONS, make_site
from tests.kafka.crash.verifier import Findings, record, verify
from tests.parts.kafka import Broker

KINDS = ("kill", "die", "term", "stop", "zombie", "join", "broker", "broker-kill")
SESSION_MS = 6_000
FROZEN_SECS = 2.5  # beyond the session time-out: the rebalance, and a commit of whoever took over
WORKERS = ("w0", "w1")
THIRD = "w2"
PAUSE_SECS = (0.5, 2.0)  # under load between two faults
DRAIN_SECS_MAX = 90.0


class Happened(NamedTuple):
    """A fault and how long it took until every unit had committed again."""

    kind: str
    who: str
    secs: float


class Outcome(NamedTuple):
    findings: Findings
    faults: list[Happened]
    deaths: list[str]
    secs: float

    def table(self) -> str:
        """What was found, for people."""
        f = self.findings
        rows = [f"{len(self.faults)} faults, {f.events} events, {self.secs:.0f} s", ""]
        for kind in KINDS:
            took = [h.secs for h in self.faults if h.kind == kind]
            if took:
                again = f"every unit commits again after {median(took):5.1f} s, at most {max(took):.1f} s"
                rows.append(f"  {kind:12} {len(took):3}   {again}")
        rows += ["", f"  workers that ended by themselves: {len(self.deaths)}"]
        rows += [f"  records of aborted transactions: {f.aborted}", ""]
        rows.append("  lost / doubled / missing / duplicate   alien / disordered   alarms missing / duplicate   offsets wrong")
        rows.append(
            f"  {f.lost:4} / {f.doubled:7} / {f.missing:7} / {f.duplicate:9}   {f.alien:5} / {f.disordered:10}"
            f"   {f.alarms_missing:14} / {f.alarms_duplicate:9}   {f.positions:13}"
        )
        return "\n".join(rows)


def plan(rng: Random, count: int, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """`count` kinds of faults: each as often as the others, in random order."""
    rounds = [rng.sample(kinds, len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for one in rounds for kind in one][:count]


class Audit:
    """One audit on a broker of its own."""

    def __init__(
        self, broker: Broker, folder: Path, prefix: str, rng: Random, rate: int, *, session_ms: int = SESSION_MS, **settings: Any
    ) -> None:
        self.broker, self.rng, self.prefix = broker, rng, prefix
        self.session_secs = session_ms / 1_000
        self.connection = Connection(bootstrap=broker.bootstrap, prefix=prefix, session_timeout_ms=session_ms, **settings)
        make_site(broker.bootstrap, prefix)
        self.crew = Crew(self.connection, folder)
        self.publisher = Publisher(broker.bootstrap, prefix, rng, rate)
        self.offsets = Offsets(self.connection)

    def run(self, kinds: list[str], events: int) -> Outcome:
        """Let the faults happen, publish at least so many events, drain, end the workers, verify."""
        began = time.monotonic()
        with self:
            self.begin()
            happened = [self.happen(kind) for kind in kinds]
            findings = self.end(events)
            return Outcome(findings, happened, self.crew.deaths, time.monotonic() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, fault: Any, *_: object) -> None:
        if fault is not None:
            print(f"published {self.publisher.sent}, on the log {self.publisher.delivered}; {self.crew.tails()}", flush=True)
        self.crew.close()
        self.publisher.halt()
        self.offsets.close()

    def begin(self) -> None:
        """Start workers and publisher; returns when every unit has committed."""
        for name in WORKERS:
            self.crew.start(name, wait=False)
        self.publisher.start()
        self.again([0] * 2 * PARTITIONS)

    def end(self, events: int = 0) -> Findings:
        """Publish at least so many events in all, drain, end the workers, verify."""
        self.publisher.stop(events)
        until(self._drained, DRAIN_SECS_MAX, "the end of the events")
        return self._settled()

    def happen(self, kind: str, who: str = "", step: int = 0, doing: str = "records") -> Happened:
        """One fault, and what follows. Who it hits, and before which step of which transaction, may be given."""
        time.sleep(self.rng.uniform(*PAUSE_SECS))
        victim, at = self.rng.choice(WORKERS), self.rng.randint(2, 7)
        who, step = who or victim, step or at
        comes_back_late = self.rng.random() < 0.5
        crew = self.crew
        began = time.monotonic()
        before = until_known(self.offsets)
        match kind:
            case "kill" | "die":
                if kind == "die":
                    crew.order(who, f"kill {step} {doing}")
                    until(lambda: crew.living[who].process.poll() is not None, what=f"the death of {who}")
                    began = time.monotonic()
                crew.kill(who)
                before = until_known(self.offsets)
                if not comes_back_late:
                    time.sleep(self.rng.uniform(0.0, 2.0))
                    crew.start(who, wait=False)
                secs = self.again(before, began)
                if comes_back_late:
                    crew.start(who, wait=False)
                    self.again(until_known(self.offsets))
            case "term":
                crew.end(who)
                before = until_known(self.offsets)
                secs = self.again(before, began)
                crew.start(who, wait=False)
                self.again(until_known(self.offsets))
            case "stop" | "zombie":
                if kind == "stop":
                    crew.freeze(who)
                else:
                    crew.frozen.add(who)
                    crew.order(who, f"stop {step} {doing}")
                    until(lambda: crew.has_obeyed(who), what=f"the sleep of {who}")
                began = time.monotonic()
                before = until_known(self.offsets)
                secs = self.again(before, began)
                time.sleep(max(0.0, self.session_secs + FROZEN_SECS - secs))
                crew.thaw(who)
                self.again(until_known(self.offsets))
            case "join":
                crew.start(THIRD, wait=False)
                until(lambda: crew.saw(THIRD, "ready\n"), what="the third worker")
                secs = self.again(until_known(self.offsets))
                (crew.kill if comes_back_late else crew.end)(THIRD)
                self.again(until_known(self.offsets))
            case "broker" | "broker-kill":
                self.broker.restart(kill=kind == "broker-kill")
                secs = self.again(before, began)
            case _:
                raise AssertionError(kind)
        print(f"  {kind:12} {who} step {step}: {secs:.1f} s", flush=True)
        return Happened(kind, who, secs)

    def again(self, since: list[int], began: float | None = None) -> float:
        """Wait until every unit has committed beyond `since`; seconds since `began`."""
        began = time.monotonic() if began is None else began

        def moved() -> bool:
            self.crew.care()
            return self.offsets.moved(since)

        until(moved, what="a commit of every unit")
        return time.monotonic() - began

    def _drained(self) -> bool:
        self.crew.care()
        return self.offsets.total() >= self.publisher.sent

    def _settled(self) -> Findings:
        """End the workers when nothing is missing, or nothing more comes, and say what there is then."""
        give_up = time.monotonic() + DRAIN_SECS_MAX
        while True:
            found = verify(record(self.broker.bootstrap, self.prefix, PARTITIONS))
            if not (found.lost or found.missing or found.alarms_missing) or time.monotonic() > give_up:
                break
            self.crew.care()
            time.sleep(1.0)
        self.crew.end_all()
        return verify(record(self.broker.bootstrap, self.prefix, PARTITIONS))


def until_known(offsets: Offsets) -> list[int]:
    """The offsets now, when the broker answers."""
    found: list[int] | None = None
    while found is None:
        found = offsets.now()
    return found
