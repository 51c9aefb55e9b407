"""The cluster engine against its floor: a bare consume-transform-produce loop with one transaction a batch, frozen in `floor/`.

A round runs the floor, the engine with the floor's own job, and the engine with the real way of a consent, without sealing and
with it; each in a process of its own, on the same broker, one after the other. A ratio is to the floor of the same round:
nothing else means anything on a machine that does other things as well.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import failover, job, restore
from benchmarks.cluster import JobNames, make_input, make_job_topics
from benchmarks.floor import common as floor
from benchmarks.verify import verify_job
from tests.parts.choose import start_kafka
from tests.parts.kafka import Broker, Kafka
from tests.parts.topics import drop_topics, new_prefix

ROOT: Final = Path(__file__).resolve().parent.parent
FLOOR_SCRIPT: Final = Path(__file__).resolve().parent / "floor" / "bench_plain.py"
SECS_MAX: Final = 600
FLOOR: Final = "floor"
BOUNDS: Final = {"job": 0.35, "consents, unsealed": 0.6, "consents, sealed": 0.9}  # of the floor's CPU per event
KILLS: Final = 10

Result = dict[str, Any]


def run(events: int, rounds: int, consents: int, *, restores: bool, failovers: bool, profile: str) -> bool:
    """Run what was asked for; returns whether every bound holds."""
    with _broker() as kafka:
        print(f"kafka: {kafka.kind}", flush=True)
        if restores:
            return restore.run(kafka.bootstrap, events, rounds)
        if failovers:
            return failover.run(kafka.bootstrap, KILLS)
        return speed(kafka.bootstrap, events, rounds, consents, profile)


@contextmanager
def _broker() -> Iterator[Kafka]:
    """`$KAFKA_BOOTSTRAP`, or a broker as the tests choose one."""
    kafka = start_kafka()
    try:
        yield kafka
    finally:
        if isinstance(kafka, Broker):
            kafka.stop(kill=True)  # its data goes anyway
        else:
            kafka.stop()


def speed(bootstrap: str, events: int, rounds: int, consents: int, profile: str = "") -> bool:
    """Print what an event costs, in floors; returns whether every bound holds."""
    prefix = new_prefix()
    source = prefix + job.INPUT
    make_input(bootstrap, source, floor.gen(events))
    runs: dict[str, Callable[[], Result]] = {
        FLOOR: lambda: _floor(bootstrap, source, events),
        "job": lambda: _job(bootstrap, source, events, profile and f"{profile}.job"),
        "consents, unsealed": lambda: _consents(bootstrap, consents, "--unsealed", profile=profile and f"{profile}.unsealed"),
        "consents, sealed": lambda: _consents(bootstrap, consents, profile=profile and f"{profile}.sealed"),
    }
    found: dict[str, list[Result]] = {name: [] for name in runs}
    for n in range(rounds):
        for name, one in runs.items():
            found[name].append(one())
            print(f"round {n + 1}: {name} {found[name][-1]['cpu_us']:.1f} µs", file=sys.stderr, flush=True)
    drop_topics(bootstrap, prefix)
    print(f"{events:,} events, {consents:,} consents, {rounds} rounds; medians; ratios to the floor of the same round")
    return table(found)


def table(found: dict[str, list[Result]]) -> bool:
    """Print the results by name, the floor's among them; returns whether every bound holds."""
    floors = found[FLOOR]
    print(f"{'':20}{'µs CPU':>8}{'floors':>8}  {'bound':14}{'events/s':>10}{'floors':>8}  CPU by thread, µs")
    every = True
    for name, results in found.items():
        cost, rate = (median(r[key] for r in results) for key in ("cpu_us", "rate"))
        ratio, speed = (median(r[key] / f[key] for r, f in zip(results, floors, strict=True)) for key in ("cpu_us", "rate"))
        bound = BOUNDS.get(name)
        said = "" if bound is None else f"≤ {bound} {'ok' if ratio <= bound else 'MISSED'}"
        every = every and (bound is None or ratio <= bound)
        kinds = results[0].get("threads_us", {})
        parts = ", ".join(f"{kind} {median(r['threads_us'].get(kind, 0.0) for r in results):.1f}" for kind in kinds)
        print(f"{name:20}{cost:8.1f}{ratio:8.2f}  {said:14}{rate:10,.0f}{speed:8.2f}  {parts}")
    return every


def _floor(bootstrap: str, source: str, events: int) -> Result:
    """The frozen loop, as it is: it makes its own topics and prints its own figures."""
    name = new_prefix()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "w").mkdir()  # where it keeps its stores
        env = {"BROKER": bootstrap, "N": str(events), "IN_TOPIC": source, "PARTS": str(job.PARTITIONS)}
        printed = _child([str(FLOOR_SCRIPT), name, "rocks", "eos"], folder, env)
    for prefix in (f"out-{name}", f"clg-{name}"):
        drop_topics(bootstrap, prefix)
    return {"cpu_us": printed["client_cpu_us"], "rate": printed["eps"]}


def _job(bootstrap: str, source: str, events: int, profile: str) -> Result:
    names = JobNames(new_prefix(), source)
    make_job_topics(bootstrap, names)
    found = _measured("job", bootstrap, names.prefix, events, "--input", source, profile=profile)
    verify_job(bootstrap, names, events)
    drop_topics(bootstrap, names.prefix)
    return found


def _consents(bootstrap: str, events: int, *flags: str, profile: str) -> Result:
    prefix = new_prefix()
    found = _measured("consents", bootstrap, prefix, events, *flags, profile=profile)
    drop_topics(bootstrap, prefix)
    return found


def _measured(what: str, bootstrap: str, prefix: str, events: int, *flags: str, profile: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "benchmarks.measured", what, "--bootstrap", bootstrap, "--prefix", prefix, "--events", str(events)]
        command += ["--folder", f"{folder}/{what}", "--profile", profile and str(Path(profile).resolve()), *flags]
        return _child(command, str(ROOT), {})


def _child(arguments: list[str], folder: str, env: dict[str, str]) -> Result:
    """The figures that a process prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, **env, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=SECS_MAX, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"a measured process failed:\n{done.stderr[-3000:]}")
    figures = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: Result = json.loads(figures.removeprefix("RESULT "))
    return found
