"""The embedded runtime against its floor: inserting the same bytes into a bare SQLite table, one transaction per batch.

CPU is the whole process's (user and system), so that SQLite's own work counts on both sides. Floor and engine alternate within
each round; the medians of the rounds are printed.
"""

import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep

import httpx
import msgspec
import psutil

from engine.loop import RECORDS_PER_TASK_MAX
from engine.service import Service, tune_interpreter
from schemas.identifiers import normalise
from schemas.routed import Envelope

SUBJECTS = 20_000
HTTP_BATCH = 500
CALLS = 200
LINE = "I am calling about the invoice of last month, and the second thing is my new address, please note it down."


def run(events: int, rounds: int) -> None:
    """Print what a consent event, a transcript line and an accepted event cost, in floors."""
    tune_interpreter()  # as `up` does
    rows: dict[str, list[tuple[float, float, float]]] = {}
    measures = {"consent event": consents, "transcript line": lines, "appended event": appended, "accepted by HTTP": accepted}
    for _ in range(rounds):
        for name, measure in measures.items():
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
    data = [_line(n) for n in range(events)]
    return _folded(data, "call.transcribed", "calls", before=["intake"], measured=["case", "subject"])


def accepted(events: int) -> tuple[float, float, float]:
    """A real service on loopback, in a process of its own: batches of CloudEvents posted until each is answered 202.

    Its CPU counts until everything accepted is folded; events per second are those accepted.
    """
    now = datetime.now(UTC).isoformat()
    batches = [
        msgspec.json.encode([
            {"specversion": "1.0", "id": f"e{n}", "source": "bench", "type": "consent.given", "time": now, "controller": "acme",
             "data": msgspec.Raw(_consent(n))} for n in range(start, min(start + HTTP_BATCH, events))
        ]) for start in range(0, events, HTTP_BATCH)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, _up(Path(folder)) as (process, url, token):
        headers = {"authorization": f"Bearer {token}", "content-type": "application/cloudevents-batch+json"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            cpu, wall = _cpu(process.pid), perf_counter()
            for batch in batches:
                client.post("/v1/events", content=batch).raise_for_status()
            wall = perf_counter() - wall
            while _unread(client):
                sleep(0.05)
            cpu = _cpu(process.pid) - cpu
        floor = bare([batch[: len(batch) // HTTP_BATCH] for batch in batches for _ in range(HTTP_BATCH)][:events], Path(folder))
    return cpu / events, floor, events / wall


@contextmanager
def _up(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    command = [sys.executable, "-m", "connectors.cli", "up", "--data", str(folder / "data"), "--port", "0"]
    command += ["--token-file", str(folder / "token")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("ready "))
        yield process, url, (folder / "token").read_text().strip()
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _unread(client: httpx.Client) -> int:
    lag = client.get("/metrics").text
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lag.splitlines() if line.startswith("consentinel_lag_records{"))


def appended(events: int) -> tuple[float, float, float]:
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
    who = random.Random(n).randrange(SUBJECTS)
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
    segment = {"party_id": str(n // CALLS % 2), "text": f"{n}: {LINE}", "offset_ms": n}
    return msgspec.json.encode({"conversation_id": f"c{n % CALLS}", "segments": [segment]})


def _envelope(type_: str, data: bytes, n: int, now_ms: int) -> Envelope:
    return Envelope(
        id=f"e{n}", source="bench", type=type_, controller="acme", time_ms=now_ms + n % 1000, receipt_ms=now_ms, actor="bench",
        content_type="application/json", data=data,
    )  # fmt: skip
