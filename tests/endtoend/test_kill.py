"""Killed at any moment and told again what it had not confirmed, a deployment holds each event exactly once.

What it must hold is folded here once more from the input, naively, by other code.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from engine.audit import verify_log
from engine.checkpoints import frontiers, latest_notes
from engine.service import Service
from law.book import shipped
from processors.decide_use import decide_use
from processors.permissions import Permissions
from processors.uses import PartyView, Use
from schemas.codec import decode
from schemas.places import Place
from schemas.topics import ControllerState
from tests.endtoend.driver import CONTROLLER, SOURCE
from tests.endtoend.world import codes, latest, records, views

pytestmark = pytest.mark.slow

SEED = 4711
SOMEWHERE = (Place("DE", ("Europe/Berlin",)),)  # where no hour is closed to calls
EVENTS, SUBJECTS, CALLS, KILLS = 20_000, 500, 100, 10
BATCH_MAX, IN_FLIGHT_MAX = 80, 12
AREAS = ("202", "212", "303", "404", "503", "602")
PURPOSES, CHANNELS, BRANDS = ("marketing", "recording", "survey"), ("voice", "sms"), ("one", "two")
LISTS = ("company_dnc", "national_dnc", "objection", "gpc")
STATUS = {"consent.given": "given", "consent.withdrawn": "withdrawn", "consent.refused": "refused", "consent.renewed": "renewed"}
LINES_PER_CALL = 20
ANSWER_SECS_MAX = 60
BATCH_TYPE = "application/cloudevents-batch+json"
FOLD_AHEAD_MS = 600_000  # at the end the clock is set ahead, so that every view is published

Event = tuple[str, str, int, str, dict[str, Any]]  # type, id, time in ms, key, data


def number(n: int) -> str:
    return f"+1{AREAS[n // 100]}55501{n % 100:02d}"


def story(rng: Random, now_ms: int) -> list[Event]:
    """20,000 events, all of times that are past, some of one time: so receipts, which differ by run, decide nothing."""
    events: list[Event] = []
    starts: list[Event] = []
    for call in range(CALLS):
        name, key, at = f"call{call}", f"call{call}", now_ms - 7_200_000 + call
        parties = [
            {"party_id": "a", "role": "customer", "identifiers": [{"kind": "tel", "value": number(call)}], "name": f"C {call}"},
            {"party_id": "g", "role": "agent", "identifiers": [{"kind": "email", "value": f"agent{call % 7}@example.net"}]},
        ]  # fmt: skip
        started = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
        starts.append(("call.started", f"{name}/s", at, key, started))
        for n in range(LINES_PER_CALL):
            segment = {"party_id": "ag"[n % 2], "text": f"{name} line {n}"}
            told = {"conversation_id": name, "segments": [segment]}
            events.append(("call.transcribed", f"{name}/{n}", at + 1 + n, key, told))
        events.append(("call.ended", f"{name}/e", at + 1000, key, {"conversation_id": name}))
    for n in range(EVENTS - len(events) - len(starts)):
        who = rng.randrange(SUBJECTS)
        at = now_ms - 3_600_000 + rng.randrange(1_000) * 1_000
        identifiers = [{"kind": "tel", "value": number(who)}]
        if rng.random() < 0.8:
            kind = rng.choices(list(STATUS), (4, 3, 1, 1))[0]
            data: dict[str, Any] = {
                "identifiers": identifiers, "purposes": rng.sample(PURPOSES, rng.randint(1, 2)),
                "channels": [rng.choice(CHANNELS)], "brand": rng.choice(BRANDS), "method": "web", "evidence": {},
            }  # fmt: skip
        else:
            kind = rng.choice(("suppression.added", "suppression.removed"))
            data = {"identifiers": identifiers, "list": rng.choice(LISTS), "source": "phone"}
        events.append((kind, f"e{n}", at, f"subject{who}", data))
    rng.shuffle(events)
    # Calls start early, so that each stays in one session with its lines only by chance; their lines may come before them.
    for started in starts:
        events.insert(rng.randrange(len(events) // 3), started)
    return events


# The service in its process, and its killer -------------------------------------------------------------------------------------


class Driven:
    """The driver's process: send batches, learn which are durable, kill it."""

    def __init__(self, folder: Path) -> None:
        self.acknowledged: set[int] = set()
        self.changed = threading.Condition()
        self.last = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.endtoend.driver", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.until(lambda: self.last == "ready")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.last = line.decode().strip()
                word, _, rest = self.last.partition(" ")
                if word == "ok" and line.endswith(b"\n"):
                    self.acknowledged.add(int(rest))
                self.changed.notify_all()
        with self.changed:
            self.last = self.last if self.last == "done" else "gone"
            self.changed.notify_all()

    def until(self, true: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: true() or self.last == "gone", ANSWER_SECS_MAX), "the driver did not answer"
            assert true() or self.process.returncode == -9, "the driver died by itself"

    def until_confirmed(self, number: int) -> None:
        self.until(lambda: number in self.acknowledged)

    def send(self, number: int, events: list[Event]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode((number, events)) + b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """Let go of the pipes once the process is gone and all that it said is heard."""
        self.listener.join(ANSWER_SECS_MAX)
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(OSError):  # what was on its way in when it was killed
            self.process.stdin.close()
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.until(lambda: self.last == "done")
        assert self.process.wait(ANSWER_SECS_MAX) == 0
        self.close()


class Served:
    """`consentinel up` in a process of its own, told over HTTP by a thread that stops when the service is gone."""

    def __init__(self, folder: Path) -> None:
        self.acknowledged: set[int] = set()
        self.changed = threading.Condition()
        self.sent: Queue[tuple[int, list[Event]] | None] = Queue()
        self.gone = False
        token = folder.with_name("token")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "connectors.cli", "up", "--data", str(folder), "--port", "0", "--token-file", str(token)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert self.process.stdout is not None
        word, _, self.url = self.process.stdout.readline().decode().strip().partition(" ")
        assert word == "ready"
        self.headers = {"authorization": f"Bearer {token.read_text().strip()}", "content-type": BATCH_TYPE}
        self.teller = threading.Thread(target=self._tell, daemon=True)
        self.teller.start()

    def _tell(self) -> None:
        with httpx.Client(timeout=ANSWER_SECS_MAX) as client:
            while (told := self.sent.get()) is not None:
                try:
                    self._post(client, *told)
                except httpx.TransportError:
                    break
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def _post(self, client: httpx.Client, number: int, events: list[Event]) -> None:
        body = msgspec.json.encode([
            {"specversion": "1.0", "id": id_, "source": SOURCE, "type": type_, "controller": CONTROLLER,
             "time": datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds"), "data": data}
            for type_, id_, at, _, data in events
        ])  # fmt: skip
        while (answer := client.post(f"{self.url}/v1/events", content=body, headers=self.headers)).status_code in (429, 503):
            time.sleep(float(answer.headers.get("retry-after", "0.2")))
        assert answer.status_code == 202, answer.text
        with self.changed:
            self.acknowledged.add(number)
            self.changed.notify_all()

    def until_confirmed(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: number in self.acknowledged or self.gone, ANSWER_SECS_MAX), "no answer"
            assert number in self.acknowledged, "the service died by itself"

    def send(self, number: int, events: list[Event]) -> None:
        self.sent.put((number, events))

    def kill(self) -> None:
        self.process.kill()
        self._close()

    def finish(self) -> None:
        self.process.terminate()
        self._close()
        assert self.process.returncode == 0

    def _close(self) -> None:
        self.process.wait(ANSWER_SECS_MAX)
        self.sent.put(None)
        self.teller.join(ANSWER_SECS_MAX)
        assert self.process.stdout is not None
        self.process.stdout.close()


def deliver(rng: Random, start: type[Driven] | type[Served], folder: Path, batches: list[list[Event]]) -> None:
    """Send all batches in order, through ten kills, each again until it is confirmed; a few confirmed ones a second time."""
    kills = sorted(rng.sample(range(5, len(batches) - 5), KILLS))
    done = -1  # batches up to here are confirmed
    driven = start(folder)
    for kill_at in [*kills, None]:
        last = len(batches) - 1 if kill_at is None else kill_at
        again = rng.sample(range(done + 1), min(done + 1, 3))
        for extra in again:
            driven.send(extra, batches[extra])
        for n in range(done + 1, last + 1):
            driven.send(n, batches[n])
            if n - IN_FLIGHT_MAX > done:
                wanted = n - IN_FLIGHT_MAX
                driven.until_confirmed(wanted)
        if kill_at is None:
            driven.until_confirmed(last)
            driven.finish()
        else:
            time.sleep(rng.choice((0.0, 0.002, 0.02, 0.2)) * rng.random())
            driven.kill()
        while done + 1 in driven.acknowledged:
            done += 1
        print(f"killed at batch {kill_at}, {done + 1} confirmed" if kill_at is not None else f"finished, {done + 1} confirmed")
        if kill_at is not None:
            driven = start(folder)
    assert done == len(batches) - 1


# What must be there, folded naively --------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What won a row (or a list): in order of rank. A denial ranks above a grant, an addition above a removal."""

    time_ms: int
    strict: bool
    event: str
    status: str


class Folded:
    """The input, folded event by event in the order of its sending."""

    def __init__(self, events: list[Event]) -> None:
        self.rows: dict[str, dict[tuple[str, str, str], Row]] = defaultdict(dict)
        self.lists: dict[str, dict[str, Row]] = defaultdict(dict)
        self.epochs: Counter[str] = Counter()
        self.audits: Counter[tuple[str, ...]] = Counter()  # of what won at its time
        self.all: Counter[tuple[str, ...]] = Counter()  # of what could have won in another order
        for kind, id_, at, _, data in events:
            if "identifiers" not in data:
                continue
            who = data["identifiers"][0]["value"]
            self.epochs[who] += 1
            event = sha256(f"{SOURCE}\0{id_}".encode()).hexdigest()[:24]
            if kind in STATUS:
                row = Row(at, STATUS[kind] not in ("given", "renewed"), event, STATUS[kind])
                for purpose in data["purposes"]:
                    place = (purpose, data["channels"][0], data["brand"])
                    entry = ("consent.changed", *place, row.status, str(at), event)
                    self.all[entry] += 1
                    if place not in self.rows[who] or row > self.rows[who][place]:
                        self.rows[who][place] = row
                        self.audits[entry] += 1
            else:
                on = kind == "suppression.added"
                row = Row(at, on, event, "yes" if on else "no")
                entry = ("suppression.changed", data["list"], row.status, str(at), event)
                self.all[entry] += 1
                if data["list"] not in self.lists[who] or row > self.lists[who][data["list"]]:
                    self.lists[who][data["list"]] = row
                    self.audits[entry] += 1

    def winners(self) -> Counter[tuple[str, ...]]:
        """The audit entries of what won in the end."""
        consents = [("consent.changed", *p, r.status, str(r.time_ms), r.event) for x in self.rows.values() for p, r in x.items()]
        lists = [("suppression.changed", n, r.status, str(r.time_ms), r.event) for x in self.lists.values() for n, r in x.items()]
        return Counter([*consents, *lists])

    def dial(self, who: str, purpose: str, channel: str, brand: str) -> str:
        row = self.rows[who].get((purpose, channel, brand))
        listed = any(
            self.lists[who].get(x, Row(0, False, "", "no")).status == "yes" for x in ("company_dnc", "national_dnc", "objection")
        )
        return "allow" if row is not None and not row.strict and not listed else "deny"


@pytest.mark.parametrize("start", [Driven, Served])
def test_every_confirmed_event_has_its_effect_exactly_once_through_ten_kills(
    tmp_path: Path, start: type[Driven] | type[Served]
) -> None:
    rng = Random(SEED)
    print(f"seed {SEED}")
    folder = tmp_path / "data"
    now_ms = time.time_ns() // 1_000_000
    events = story(rng, now_ms)
    batches = []
    at = 0
    while at < len(events):
        size = rng.randint(1, BATCH_MAX)
        batches.append(events[at : at + size])
        at += size
    began = time.perf_counter()
    deliver(rng, start, folder, batches)
    print(f"{len(events)} events in {len(batches)} batches, {KILLS} kills: {time.perf_counter() - began:.1f} s")

    service = Service.open(folder, clock=lambda: time.time_ns() // 1_000_000 + FOLD_AHEAD_MS)
    try:
        service.settle()
        assert codes(service) == []
        consents_agree(service, Folded(events), in_order=start is Driven)
        lines_are_there_once(service)
        audit_is_whole(service)
    finally:
        service.stop()


def consents_agree(service: Service, folded: Folded, *, in_order: bool) -> None:
    at_ms = service.clock()
    settings = ControllerState(controller=CONTROLLER)
    allowed = 0
    expected_state: dict[tuple[str, ...], str] = {}
    for who in map(number, range(SUBJECTS)):
        ref = service.secrets.ref(CONTROLLER, "tel", who)
        known = service.record("subject", ref, Permissions)
        assert known is not None
        assert known.epoch == folded.epochs[who], "each distinct event counts once"
        cells = {tuple(key.split("\x1f")): (c.effective_ms, c.event_id, c.status) for key, c in known.cells.items()}
        assert cells == {place: (row.time_ms, row.event, row.status) for place, row in folded.rows[who].items()}
        lists = {name: (entry.effective_ms, entry.event_id, entry.on) for name, entry in known.suppressions.items()}
        assert lists == {name: (row.time_ms, row.event, row.strict) for name, row in folded.lists[who].items()}
        expected_state |= {(ref, *place): row.status for place, row in folded.rows[who].items()}
        for purpose in PURPOSES:
            for channel in CHANNELS:
                for brand in BRANDS:
                    use = Use("dial", at_ms, channel, purpose, brand)
                    verdict = decide_use([PartyView("customer", (known,), places=SOMEWHERE)], use, settings, shipped())
                    assert verdict.verdict == folded.dial(who, purpose, channel, brand)
                    allowed += verdict.verdict == "allow"
    assert 100 < allowed < SUBJECTS * 12 - 100, "the story decides both ways"
    rows = {tuple(msgspec.json.decode(key)): row.status for key, row in latest(service, "consent.state").items()}
    assert rows == expected_state
    listed = {tuple(msgspec.json.decode(key)) for key in latest(service, "suppression.state")}
    assert listed == {
        (service.secrets.ref(CONTROLLER, "tel", who), name)
        for who in folded.lists for name, row in folded.lists[who].items() if row.strict
    }  # fmt: skip
    told: Counter[tuple[str, ...]] = Counter()
    for _, record in records(service, "audit.entries"):
        entry = decode(record.value)
        facts = entry.facts
        if entry.kind == "consent.changed":
            place = (facts["purpose"], facts["channel"], facts["brand"])
            told[entry.kind, *place, facts["status"], facts["effective_ms"], entry.event] += 1
        elif entry.kind == "suppression.changed":
            told[entry.kind, facts["list"], facts["on"], facts["effective_ms"], entry.event] += 1
    # Over HTTP the events of one person stand under free keys, so who won for a while depends on the order; who won does not.
    assert told - (folded.audits if in_order else folded.all) == Counter(), "entries that nothing explains"
    assert (folded.audits if in_order else folded.winners()) - told == Counter(), "entries that are missing"


def lines_are_there_once(service: Service) -> None:
    shown = {name: view for (_, name), view in views(service).items() if view["role"] == "customer"}
    assert len(shown) == CALLS
    for name, view in shown.items():
        assert [line[3] for line in view["lines"]] == [f"{name} line {n}" for n in range(LINES_PER_CALL)]
        assert view["ended_ms"] is not None
    kinds = Counter(decode(record.value).kind for _, record in records(service, "audit.entries"))
    assert kinds["item.protected"] == 2 * CALLS


def audit_is_whole(service: Service) -> None:
    service.checkpoint()
    lines = [(partition, record.offset, record.value) for partition, record in records(service, "audit.entries")]
    held = {
        origin: (f.size, f.root())
        for origin, f in frontiers(service.runtime, service.loop.tasks, service.shared.deployment).items()
    }
    report = verify_log(lines, latest_notes(service.runtime).values(), service.signer.vkey, held)
    assert report.ok, report.findings
    assert report.entries == len(lines) == sum(size for size, _ in held.values())
