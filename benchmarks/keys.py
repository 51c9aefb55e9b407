"""What a rotation of keys costs on the embedded runtime, against its floor: the same bytes into a bare SQLite table.

Of each round first a rotation without a data key is measured (4,096 shards rotated and destroyed), then one with all of them; the
difference, per key, is what it costs to re-wrap one: read, open, wrap, write, and the record on `keys.wrapped`. CPU is the whole
process's; medians of the rounds are printed.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from benchmarks.embedded import bare
from engine.layout import data_key
from engine.rotation import Rotations
from engine.runtime import Commit
from engine.sealing import SHARDS
from engine.service import Service, tune_interpreter
from schemas.codec import encode

CONTROLLER, EMPTY = "acme", "empty"
KEYS_PER_COMMIT = 1_000


def run(keys: int, rounds: int) -> None:
    """Print what a re-wrapped key costs, in floors, and what a rotation costs besides."""
    tune_interpreter()
    found = [_measure(keys) for _ in range(rounds)]
    cost, wall, floor, fixed, fixed_wall = (median(x[i] for x in found) for i in range(5))
    ratio = median(c / f for c, _, f, _, _ in found)
    print(f"{keys} keys, {rounds} rounds; medians")
    print(f"{'':22}{'µs CPU':>10}{'floor µs':>10}{'floors':>8}{'per second':>12}")
    print(f"{'re-wrapped key':22}{cost * 1e6:10.1f}{floor * 1e6:10.1f}{ratio:8.1f}{1 / wall:12,.0f}")
    print(f"a million keys: {cost * 1e6:.0f} s of CPU, {wall * 1e6:.0f} s on an idle service")
    print(f"besides, once per rotation: {fixed:.2f} s of CPU, {fixed_wall:.2f} s, for {SHARDS} shards rotated and destroyed")


def _measure(keys: int) -> tuple[float, float, float, float, float]:
    """(CPU s, s, floor s) per key, (CPU s, s) per rotation."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service.open(Path(folder) / "data")
        service.ring.kek(EMPTY, 0)
        fixed_cpu, fixed_wall = _rotated(service, EMPTY)
        values = _fill(service, keys)
        cpu, wall = _rotated(service, CONTROLLER)
        (status,) = Rotations(service.ring, service.rotations.owners).status(CONTROLLER)
        assert status.rotation is not None and status.rotation.keys_rewrapped == keys, "it measured something else"
        service.stop()
        floor = bare(values, Path(folder))
    return (cpu - fixed_cpu) / keys, (wall - fixed_wall) / keys, floor, fixed_cpu, fixed_wall


def _fill(service: Service, keys: int) -> list[bytes]:
    """Data keys in every partition of the subject task, as minting leaves them."""
    values: list[bytes] = []
    for start in range(0, keys, KEYS_PER_COMMIT):
        writes: dict[tuple[str, int], dict[bytes, bytes | None]] = {}
        for n in range(start, min(start + KEYS_PER_COMMIT, keys)):
            owner = f"sub_{n:026d}"
            wrapped, _ = service.secrets.mint(CONTROLLER, owner, f"c{n}")
            values.append(encode(wrapped))
            writes.setdefault(("subject", service.home("subject", owner)), {})[data_key(owner, f"c{n}")] = values[-1]
        service.runtime.commit(Commit([], writes, {}, service.clock()))
    return values


def _rotated(service: Service, controller: str) -> tuple[float, float]:
    cpu, wall = process_time(), perf_counter()
    service.rotate_keys(controller, "bench")
    service.settle()
    return process_time() - cpu, perf_counter() - wall
