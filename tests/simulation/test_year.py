"""Each item goes once, on time, and never under a hold, through a year of crashes. Its full size: `./run bench timers --year`."""

from pathlib import Path

import pytest

from tests.simulation.year import LATE_MS_MAX, Year

pytestmark = pytest.mark.slow

SEED, ITEMS = 20_260_225, 2_000


def test_a_year_of_due_times_leaves_nothing_late_early_twice_or_under_hold(tmp_path: Path) -> None:
    found = Year(tmp_path / "data", SEED, ITEMS).run()
    print(f"seed {SEED}: {found}")
    assert found.destroyed > 0.9 * ITEMS
    assert found.kept > 10, "some holds outlast the year"
    assert found.lost > 10
    assert 0 < found.late_ms_max <= LATE_MS_MAX
