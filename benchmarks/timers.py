"""What timers cost: an hour in which nothing is due, with few and with ten times as many items stored, and an hour with some due.

A service on a folder of its own, under a virtual clock: the loop looks as often as it does on an idle machine (`IDLE_SECS`), and
housekeeping comes each minute. Both sizes take turns within each round; the medians of the rounds are printed. CPU is the whole
process's. Only ratios can be compared. `year` is the simulated year of `tests/simulation/year.py`, at its full size.
"""

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

from engine.service import IDLE_SECS, MAINTENANCE_SECS, WIPE_SECS, Service, tune_interpreter
from processors.kernel import EFFECTS_PER_STEP_MAX
from tests.endtoend.world import Told, envelope, latest
from tests.harness import call, party
from tests.simulation.year import DAY_MS, GRACE_MS, LATE_MS_MAX, TURN_WRITES_MAX, Year, two_years_before

START_MS: Final = 1_772_000_000_000
TIMES: Final = 10  # as many items in the larger store
BOUND: Final = 1.10  # of the idle hour's cost there, to the one in the smaller store
DUE: Final = 200  # items in the hour that has some
HOUR_MS: Final = 3_600_000
STEP_MS: Final = round(IDLE_SECS * 1_000)
BATCH: Final = 1_000
WARM_ROUNDS: Final = 1


class Site:
    """A service with `items` stored, all due in two years, and a clock that is set from here."""

    def __init__(self, folder: Path, items: int) -> None:
        self.now_ms, self._n = START_MS, 0
        self.service = Service.open(folder / "data", clock=lambda: self.now_ms)
        self.publish([START_MS] * items)
        self.now_ms += 60_000  # the views of them are published
        self.service.settle()
        self.service.maintain()

    def publish(self, started: Sequence[int]) -> None:
        """A conversation of one customer for each start."""
        for first in range(0, len(started), BATCH):
            batch = []
            for at_ms in started[first : first + BATCH]:
                name = f"c{self._n}"
                self._n += 1
                data = call(name, party("a", "customer", ("crm", f"customer-{name}")))
                batch.append(("calls", name, envelope(Told("call.started", name, at_ms, data), self.now_ms)))
            self.service.publish(batch)
            self.service.settle()

    def hour(self) -> tuple[float, float]:
        """CPU seconds of the loop, and of its housekeeping, over an hour."""
        loop = upkeep = 0.0
        end_ms = self.now_ms + HOUR_MS
        rounds = 0
        while self.now_ms < end_ms:
            began = process_time()
            for _ in range(round(MAINTENANCE_SECS * 1_000) // STEP_MS):
                self.now_ms += STEP_MS
                while self.service.turn():
                    pass
            ended = process_time()
            rounds += 1
            self.service.maintain(wipe=rounds % round(WIPE_SECS / MAINTENANCE_SECS) == 0)
            loop, upkeep = loop + ended - began, upkeep + process_time() - ended
        return loop, upkeep

    def hour_with(self, due: int) -> float:
        """CPU seconds of the loop over an hour in which so many items are due, evenly, for each of them."""
        begins = self.now_ms + GRACE_MS + DAY_MS  # what is imported is never destroyed sooner
        self.publish([two_years_before(begins + (n + 1) * HOUR_MS // (due + 1)) for n in range(due)])
        self.now_ms = begins
        self.service.settle()  # their views
        before = self._stored()
        cost, _ = self.hour()
        assert before - self._stored() == due, "it measured something else"
        return cost / due

    def _stored(self) -> int:
        return len(latest(self.service, "conversations.protected"))


def run(items: int, rounds: int) -> bool:
    """Print the costs with `items` and ten times as many stored; returns whether the idle hour's bound is held."""
    tune_interpreter()
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        sites = [Site(folder, size) for folder, size in zip(folders, (items, TIMES * items), strict=True)]
        for _ in range(WARM_ROUNDS):
            for site in sites:
                site.hour()
        idle: list[list[tuple[float, float]]] = [[site.hour() for site in sites] for _ in range(rounds)]
        busy = [[site.hour_with(DUE) for site in sites] for _ in range(rounds)]
        for site in sites:
            site.service.stop()
    print(f"{rounds} rounds, {round(HOUR_MS / STEP_MS)} looks an hour; medians, CPU")
    print(f"{'items stored':32}{items:>12,}{TIMES * items:>12,}{'ratio':>8}")
    line("the loop of an idle hour, ms", [[loop for loop, _ in found] for found in idle])
    line("its housekeeping, ms", [[upkeep for _, upkeep in found] for found in idle])
    ratio = line("an idle hour, ms", [[sum(each) for each in found] for found in idle])
    held = ratio < BOUND
    print(f"{'':56}{f'< {BOUND:.2f}':>8} {'ok' if held else 'MISSED'}")
    line(f"each of {DUE} due in one, ms", busy)
    return held


def line(name: str, found: list[list[float]]) -> float:
    """Print one measure of both sites; returns the ratio, which is each round's own at the median."""
    ratio = median(large / small for small, large in found)
    small, large = (median(one[n] for one in found) * 1e3 for n in range(2))
    print(f"{name:32}{small:12.2f}{large:12.2f}{ratio:8.2f}")
    return ratio


def year(items: int, seed: int) -> None:
    """Run and print a simulated year. Raises AssertionError with what is wrong."""
    logging.getLogger("consentinel.engine").setLevel(logging.ERROR)  # the story loses commits on purpose, and they are counted
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found: Any = Year(Path(folder) / "data", seed, items).run()
    first = datetime.fromtimestamp(START_MS // 1_000, UTC).date()
    print(f"seed {seed}: a year from {first}, {found.items:,} items, {found.holds:,} holds, {found.restarts} crashes, "
          f"{found.lost:,} lost commits; {perf_counter() - began:.0f} s")  # fmt: skip
    print(f"destroyed on time {found.destroyed:,}, kept by holds {found.kept:,}, early 0, twice 0, under hold 0")
    print(f"latest {found.late_ms_max / 1e3:.1f} s of virtual time (at most {LATE_MS_MAX / 1e3:.0f} s)")
    print(f"most effects of one step {found.step_effects_max} (at most {EFFECTS_PER_STEP_MAX})")
    print(f"most writes of one turn of alarms {found.turn_writes_max} (at most {TURN_WRITES_MAX}), "
          f"beyond as many as records made; {found.turns:,} turns")  # fmt: skip
