"""What timers read and write follows what is due: ten times as many stored items change nothing about it."""

from pathlib import Path
from typing import Any

import pytest

from tests.harness import Deployment, call, party
from tests.simulation.year import DAY_MS, GRACE_MS, two_years_before

FEW, TIMES, DUE = 30, 10, 5
HOUR_MS, LOOK_MS = 3_600_000, 10_000


class Counted:
    """A deployment with items stored, and what its loop asks of the store and writes to it."""

    def __init__(self, folder: Path, items: int) -> None:
        folder.mkdir()
        self.world = Deployment(folder)
        for n in range(items):
            self._publish(f"c{n}", self.world.now_ms)
        first = self.world.now_ms + GRACE_MS + DAY_MS + HOUR_MS
        for n in range(DUE):
            self._publish(f"due{n}", two_years_before(first + (n + 1) * 60_000))
        self.world.settle(60_000)
        self.world.settle(first - HOUR_MS - self.world.now_ms)
        self.work = {"calls": 0, "rows": 0, "writes": 0}
        self._count()

    def hour(self) -> dict[str, int]:
        """What an hour makes the loop do."""
        before = dict(self.work)
        for _ in range(HOUR_MS // LOOK_MS):
            self.world.settle(LOOK_MS)
        return {name: count - before[name] for name, count in self.work.items()}

    def _publish(self, name: str, started_ms: int) -> None:
        ann = party("a", "customer", ("crm", f"customer-{name}"))
        self.world.publish("call.started", call(name, ann), time_ms=started_ms, settle=False)

    def _count(self) -> None:
        runtime, work = self.world.runtime, self.work
        get, get_many, scan, commit = runtime.get, runtime.get_many, runtime.scan, runtime.commit

        def getting(*args: Any) -> Any:
            work["calls"] += 1
            return get(*args)

        def getting_many(*args: Any) -> Any:
            work["calls"] += 1
            return get_many(*args)

        def scanning(*args: Any, **options: Any) -> Any:
            work["calls"] += 1
            for pair in scan(*args, **options):
                work["rows"] += 1
                yield pair

        def committing(made: Any) -> None:
            work["writes"] += len(made.outputs) + sum(len(writes) for writes in made.writes.values())
            commit(made)

        runtime.get, runtime.get_many, runtime.scan, runtime.commit = getting, getting_many, scanning, committing


@pytest.fixture
def sites(tmp_path: Path) -> Any:
    made = [Counted(tmp_path / str(items), items) for items in (FEW, TIMES * FEW)]
    yield made
    for site in made:
        site.world.close()


def test_the_work_of_an_hour_is_that_of_what_is_due_in_it(sites: list[Counted]) -> None:
    before = [site.hour() for site in sites]
    with_some_due = [site.hour() for site in sites]
    after = [site.hour() for site in sites]
    assert before == after == [{"calls": 0, "rows": 0, "writes": 0}] * 2, "an idle hour asks the store for nothing"
    assert with_some_due[0] == with_some_due[1]
    assert with_some_due[0]["writes"] > 10 * DUE
    for site, stored in zip(sites, (FEW, TIMES * FEW), strict=True):
        assert len(site.world.latest("conversations.protected")) == stored, "what was due went, and nothing else"
