"""The embedded runtime against its floor: inserting the same bytes into a bare SQLite table, one transaction per batch.

CPU is the whole process's (user and system), so that SQLite's own work counts on both sides. Floor and engine alternate within
each round; the medians of the rounds are printed.
"""

import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import msgspec

from engine.loop import RECORDS_PER_TASK_MAX
from engine.service import Service
from schemas.identifiers import normalise
from schemas.routed import Envelope

SUBJECTS = 20_000
CALLS = 200
LINE = "I am calling about the invoice of last month, and the second thing is my new address, please note it down."


def run(events: int, rounds: int) -> None:
    """Print what a consent event, a transcript line and an accepted batch cost, in floors."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for name, measure in (("consent event", consents), ("transcript line", lines), ("accepted event", accepted)):
            rows.setdefault(name, []).append(measure(events))
    print(f"{events} events, {rounds} rounds, batches of {RECORDS_PER_TASK_MAX}; medians")
    print(f"{'':18}{'µs CPU':>10}{'floor µs':>10}{'floors':>8}{'per second':>12}")
    for name, found in rows.items():
        cost, floor, rate = (median(x[i] for x in found) for i in range(3))
        ratio = median(c / f for c, f, _ in found)
        print(f"{name:18}{cost * 1e6:10.1f}{floor * 1e6:10.1f}{ratio:8.1f}{rate:12,.0f}")
    cold, warm = normalisation()
    print(f"normalisation of a number beside it: {cold * 1e6:.1f} µs parsed, {warm * 1e6:.2f} µs cached")


def consents(events: int) -> tuple[float, float, float]:
    """From admitted to committed: the subject task over consent events; (CPU s, floor s) per event, events per second."""
    data = [_consent(n) for n in range(events)]
    return _folded(data, "consent.given", "consents", before=["intake"], measured=["subject"])


def lines(events: int) -> tuple[float, float, float]:
    """From admitted to committed: case and subject task over transcripts of one line each."""
    return _folded([_line(n) for n in range(events)], "call.transcribed", "calls", before=["intake"], measured=["case", "subject"])


def accepted(events: int) -> tuple[float, float, float]:
    """What a door does for a checked event: encode, seal, append, in batches, durable before it answers."""
    data = [_consent(n) for n in range(events)]
    with tempfile.TemporaryDirectory() as folder:
        service = Service.open(Path(folder) / "data")
        envelopes = [_envelope("consent.given", d, n, service.clock()) for n, d in enumerate(data)]
        wall, cpu = perf_counter(), process_time()
        for start in range(0, events, RECORDS_PER_TASK_MAX):
            service.publish([("consents", e.id, e) for e in envelopes[start : start + RECORDS_PER_TASK_MAX]])
        cpu, wall = process_time() - cpu, perf_counter() - wall
        floor = bare([r.value or b"" for _, r in service.topic("consents")], Path(folder))
        service.stop()
    return cpu / events, floor, events / wall


def _folded(data: list[bytes], type_: str, topic: str, before: list[str], measured: list[str]) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        service = Service.open(Path(folder) / "data")
        now_ms = service.clock()
        if topic == "calls":
            service.publish([("calls", str(n), _envelope("call.started", _call(n), -n - 1, now_ms)) for n in range(CALLS)])
            service.settle()
        for start in range(0, len(data), RECORDS_PER_TASK_MAX):
            batch = data[start : start + RECORDS_PER_TASK_MAX]
            service.publish([(topic, str(start + n), _envelope(type_, d, start + n, now_ms)) for n, d in enumerate(batch)])
        tasks = service.loop.tasks
        service.loop.tasks = [t for t in tasks if t.name in before]
        service.loop.drain()
        service.loop.tasks = [t for t in tasks if t.name in measured]
        wall, cpu = perf_counter(), process_time()
        service.loop.drain()
        cpu, wall = process_time() - cpu, perf_counter() - wall
        service.loop.tasks = tasks
        floor = bare([r.value or b"" for _, r in service.topic("subject.events")][: len(data)], Path(folder))
        service.stop()
    return cpu / len(data), floor, len(data) / wall


def bare(values: list[bytes], folder: Path) -> float:
    """The floor: CPU seconds a row for the same bytes into a bare table, the engine's batch size, one transaction each."""
    db = sqlite3.connect(folder / "floor.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t (k BLOB, v BLOB)")
    rows = [(n.to_bytes(8, "big"), v) for n, v in enumerate(values)]
    cpu = process_time()
    for start in range(0, len(rows), RECORDS_PER_TASK_MAX):
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (?, ?)", rows[start : start + RECORDS_PER_TASK_MAX])
        db.execute("COMMIT")
    cpu = process_time() - cpu
    db.close()
    return cpu / len(values)


def normalisation() -> tuple[float, float]:
    """Seconds to normalise one telephone number, first seen and seen before."""
    numbers = [f"+1 202 555 01{n:02d}" for n in range(100)]
    return _per_item(lambda v: normalise("tel", v, None), numbers), _per_item(lambda v: normalise("tel", v, None), numbers)


def _per_item(work: Callable[[str], object], items: Iterable[str]) -> float:
    start, count = process_time(), 0
    for item in items:
        work(item)
        count += 1
    return (process_time() - start) / count



def _consent(n: int) -> bytes:
    who = random.Random(n).randrange(SUBJECTS)  # noqa: S311 -- a workload, not a secret
    identifier = {"kind": "crm", "value": f"customer-{who}"}
    return msgspec.json.encode({
        "identifiers": [identifier], "purposes": ["marketing"], "channels": ["voice"], "method": "web",
        "evidence": {"notice_version": "2026-01", "language": "en"},
    })  # fmt: skip


def _call(n: int) -> bytes:
    return msgspec.json.encode({
        "conversation_id": f"c{n}", "channel": "voice", "direction": "inbound",
        "parties": [
            {"party_id": "0", "role": "customer", "identifiers": [{"kind": "crm", "value": f"customer-{n}"}]},
            {"party_id": "1", "role": "agent", "identifiers": [{"kind": "employee", "value": f"agent-{n % 20}"}]},
        ],
    })  # fmt: skip


def _line(n: int) -> bytes:
    return msgspec.json.encode({
        "conversation_id": f"c{n % CALLS}", "segments": [{"party_id": str(n // CALLS % 2), "text": f"{n}: {LINE}", "offset_ms": n}],
    })  # fmt: skip


def _envelope(type_: str, data: bytes, n: int, now_ms: int) -> Envelope:
    return Envelope(
        id=f"e{n}", source="bench", type=type_, controller="acme", time_ms=now_ms + n % 1000, receipt_ms=now_ms, actor="bench",
        content_type="application/json", data=data,
    )  # fmt: skip
