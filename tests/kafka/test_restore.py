"""A cluster from a backup: who was forgotten since is forgotten again before a worker is ready or passes a beat on."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.kafka.edge import BrokerAway
from engine.kafka.names import BEAT_KEY
from tests.endtoend.test_restore import GONE, KEPT, call
from tests.endtoend.world import records, request, request_states
from tests.parts.kafka import Broker
from tests.parts.topics import committed, new_prefix

from .test_erasure_kills import Story
from .test_worker import until

pytestmark = pytest.mark.slow


@pytest.fixture
def broker(kafka_jars: None) -> Iterator[Broker]:
    with Broker() as own:
        yield own


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Story]:
    made = Story(broker, new_prefix(), tmp_path)
    yield made
    made.close()


def said(site: Story) -> set[str] | None:
    """What customers said, as far as it opens; None while a broker that has just started does not know its leaders."""
    try:
        return {str(line[3]) for view in site.views().values() for line in view["lines"]}
    except BrokerAway:
        return None


def beats(site: Story) -> list[int]:
    """When the beats on `subject.events` were appended."""
    told = committed(site.bootstrap, f"{site.prefix}subject.events")
    return [message.timestamp()[1] for message in told if (message.key() or b"").startswith(BEAT_KEY)]


def test_who_was_forgotten_after_the_backup_is_forgotten_before_anybody_is_served(
    broker: Broker, site: Story, tmp_path: Path
) -> None:  # fmt: skip
    site.apply()
    worker = site.worker("w1")
    worker.wait_ready()
    before_ms = time.time_ns() // 1_000_000 - 86_400_000
    for told in (*call("c1", GONE, "the secret", before_ms), *call("c2", KEPT, "the weather", before_ms)):
        site.tell(told)
    until(lambda: said(site) == {"the secret", "the weather"})
    assert worker.end() == 0
    broker.stop(keep=True)
    assert broker.folder is not None
    shutil.copytree(broker.folder, tmp_path / "backup")
    broker.start()
    worker = site.worker("w1")
    worker.wait_ready()
    for told in request("r1", time.time_ns() // 1_000_000, ("tel", GONE)):
        site.tell(told)
    until(lambda: request_states(site) == {"r1": "fulfilled"} and said(site) == {"the weather"})
    assert worker.end() == 0

    broker.stop(keep=True)
    shutil.rmtree(broker.folder)
    shutil.copytree(tmp_path / "backup", broker.folder)
    broker.start()
    site.edge.close()
    site.connect()
    until(lambda: said(site) == {"the secret", "the weather"})  # else the test would show nothing
    restored_ms = time.time_ns() // 1_000_000
    worker = site.worker("w1")  # its stores are ahead of their changelogs now: they are made anew
    worker.wait_ready()
    assert said(site) == {"the weather"}
    gone_ms = max(r.ts_ms for _, r in records(site, "conversations.protected") if r.value is None)
    assert gone_ms >= restored_ms
    until(lambda: any(ms >= restored_ms for ms in beats(site)))
    assert min(ms for ms in beats(site) if ms >= restored_ms) >= gone_ms, "readers were told that all is well"
    assert worker.end() == 0
