"""How long an erasure takes, and what a hundred at once cost others: the time until their consents count in a decision.

A whole deployment in processes of its own is spoken to by HTTP. The stream of consents is one after another: each is of somebody
new, and is asked for by decisions from the moment that its event was accepted until the verdict is `allow`. First nothing else
happens, then all erasures are asked for at once, and the stream goes on until the last one is fulfilled. Both halves are of one
run on one machine, so their ratio can be compared; milliseconds cannot.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import count, islice
from statistics import median
from time import monotonic, sleep
from typing import Any, Final

import httpx

from benchmarks import sites
from tests.parts.process import PartMissing

CONVERSATIONS: Final = 1_000  # of the one person
IDENTIFIERS: Final = 5  # of each person, linked in a chain; conversations are spread over them
CONVERSATIONS_EACH: Final = 20  # of the hundred: two thousand conversations, so that the whole takes minutes
LINES: Final = 4  # of a conversation, by customer and agent in turn
IDLE: Final = 150  # consents before the erasures
PAUSE_SECS: Final = 0.02  # between two of the stream
LOOK_SECS: Final = 0.002
SECS_MAX: Final = 300.0
BOUND: Final = 2.0  # of p95 and median beside a hundred erasures, to those of the idle half
BATCH: Final = 400
TEXT: Final = "and then I said that the parcel never came, so would you please look into it and call me back on Monday."

Event = dict[str, Any]


def run(people: int, on: str | None) -> bool:
    """Measure the embedded runtime, and Kafka where there are a broker and a Redis; returns whether the bound holds."""
    held = on == "cluster" or measure("embedded", sites.embedded, people)
    if on == "embedded":
        return held
    try:
        return measure("cluster", sites.cluster, people) and held
    except PartMissing as missing:
        print(f"cluster: NOT RUN: {missing}")
        return held


def measure(name: str, site: Callable[[], AbstractContextManager[httpx.Client]], people: int) -> bool:
    """Measure one deployment, print it, and say whether the bound holds."""
    with site() as client:
        bench = Bench(client)
        bench.send(event for n in range(CONVERSATIONS) for event in _conversation(0, n))
        bench.send(_links(0))
        bench.send(event for k in range(1, people + 1) for n in range(CONVERSATIONS_EACH) for event in _conversation(k, n))
        bench.send(event for k in range(1, people + 1) for event in _links(k))
        bench.consent()  # all that was sent before is folded: there is one order of things
        bench.rest()
        one = bench.erase([0])
        print(f"{name}: {CONVERSATIONS} conversations, {IDENTIFIERS} linked identifiers: fulfilled after {one:.1f} s")
        idle = [bench.consent() for _ in range(IDLE)]
        beside, took = bench.beside(range(1, people + 1))
        each = f"{CONVERSATIONS_EACH} conversations and {IDENTIFIERS} identifiers each"
        print(f"{name}: {people} such at once, {each}: all fulfilled after {took:.1f} s")
        return table(name, idle, beside)


def table(name: str, idle: list[float], beside: list[float]) -> bool:
    """Print both halves of the stream; returns whether the bound holds."""
    ratios = [at(beside) / at(idle) for at in (median, p95)]
    print(f"{name + ', consent counts after':34}{'median ms':>10}{'p95 ms':>10}{'of':>6}")
    for half, found in (("idle", idle), ("beside the erasures", beside)):
        print(f"  {half:32}{median(found) * 1e3:10.1f}{p95(found) * 1e3:10.1f}{len(found):6}")
    held = max(ratios) <= BOUND
    print(f"  {'ratio':32}{ratios[0]:10.2f}{ratios[1]:10.2f}      ≤ {BOUND:.0f} {'ok' if held else 'MISSED'}", flush=True)
    return held


def p95(values: list[float]) -> float:
    """The value that one of twenty exceeds."""
    return sorted(values)[max(0, -(-len(values) * 19 // 20) - 1)]


class Bench:
    """One deployment, spoken to as publisher, analyst and decider."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._numbers = count()

    def send(self, events: Iterable[Event]) -> None:
        """Publish events in batches."""
        headers = {"content-type": "application/cloudevents-batch+json"}
        rest = iter(events)
        while batch := list(islice(rest, BATCH)):
            self._client.post("/v1/events", json=batch, headers=headers).raise_for_status()

    def consent(self) -> float:
        """Seconds from the acceptance of somebody's consent until a decision allows what was consented to."""
        who = [{"kind": "crm", "value": f"other-{next(self._numbers)}"}]
        consent = {"identifiers": who, "purposes": ["marketing"], "channels": ["voice"], "method": "web", "evidence": {}}
        ask = {"controller": "acme", "use": "share", "channel": "voice", "purpose": "marketing", "identifiers": who}
        sleep(PAUSE_SECS)
        self.send([_event("consent.given", who[0]["value"], consent)])
        began = monotonic()
        while self._client.post("/v1/decisions", json=ask).raise_for_status().json()["verdict"] != "allow":
            if monotonic() - began > SECS_MAX:
                raise RuntimeError("a consent never counted")
            sleep(LOOK_SECS)
        return monotonic() - began

    def rest(self) -> None:
        """Wait until a consent counts at once: everything that was sent before is folded, published and rung."""
        for _ in range(3):
            sleep(1.0)
            self.consent()

    def erase(self, people: Iterable[int]) -> float:
        """Seconds until the requests of these people are fulfilled."""
        began, asked = monotonic(), self._ask(people)
        while not self._fulfilled(asked):
            sleep(0.02)
        return monotonic() - began

    def beside(self, people: Iterable[int]) -> tuple[list[float], float]:
        """(the stream's seconds while these people are erased, seconds until the last one was)."""
        began, asked = monotonic(), self._ask(people)
        found: list[float] = []
        while not self._fulfilled(asked):
            found.append(self.consent())
            if monotonic() - began > SECS_MAX:
                raise RuntimeError("the erasures never ended")
        return found, monotonic() - began

    def _ask(self, people: Iterable[int]) -> list[str]:
        """Open and verify a request of each, in one batch."""
        ids = [f"request-{k}" for k in people]
        events = []
        for name in ids:
            who = {"kind": "crm", "value": _identifier(int(name.removeprefix("request-")), 0)}
            asked = {"request_id": name, "right": "erasure", "regime": "gdpr", "identifiers": [who], "received_via": "web"}
            events += [_event("request.opened", f"{name}/o", asked)]
            events += [_event("request.identity_verified", f"{name}/v", {"request_id": name, "actor": "x"})]
        self.send(events)
        return ids

    def _fulfilled(self, asked: list[str]) -> bool:
        """Whether the last of them that is open has been fulfilled; takes those from the list that have been."""
        while asked:
            found = self._client.get(f"/v1/requests/{asked[-1]}")
            if found.status_code != httpx.codes.OK or found.json()["state"] != "fulfilled":
                return False
            asked.pop()
        return True


def _identifier(person: int, n: int) -> str:
    return f"person-{person}-{n % IDENTIFIERS}"


def _conversation(person: int, n: int) -> Iterator[Event]:
    name = f"c-{person}-{n}"
    parties = [
        {"party_id": "c", "role": "customer", "identifiers": [{"kind": "crm", "value": _identifier(person, n)}], "name": "Ann"},
        {"party_id": "a", "role": "agent", "identifiers": [{"kind": "employee", "value": f"agent-{n % 20}"}]},
    ]
    started = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
    lines = [{"party_id": "ca"[k % 2], "text": f"{k}: {TEXT}"} for k in range(LINES)]
    yield _event("call.started", f"{name}/s", started)
    yield _event("call.transcribed", f"{name}/t", {"conversation_id": name, "segments": lines})
    yield _event("call.ended", f"{name}/e", {"conversation_id": name})


def _links(person: int) -> Iterator[Event]:
    for n in range(IDENTIFIERS - 1):
        ends = {end: {"kind": "crm", "value": _identifier(person, n + k)} for k, end in enumerate("ab")}
        yield _event("identity.linked", f"link-{person}-{n}", {**ends, "source": "crm"})


def _event(type_: str, event_id: str, data: dict[str, Any]) -> Event:
    now = datetime.now(UTC).isoformat()
    about = {"specversion": "1.0", "id": event_id, "source": "bench", "type": type_, "time": now}
    return {**about, "controller": "acme", "data": data}
