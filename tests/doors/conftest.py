"""What tests of the command line share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doors.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    found = Program(tmp_path)
    found.start()
    yield found
    if found.up is not None:
        found.up.kill()
        found.up.communicate()
