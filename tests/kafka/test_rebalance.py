"""Units change hands while their owners sleep, die or come back, and every event still counts once."""

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.kafka.crash.crew import until
from tests.kafka.crash.faults import Audit, until_known
from tests.parts.kafka import Broker
from tests.parts.topics import new_prefix

pytestmark = pytest.mark.slow

RATE = 200
KEPT_SECS = 1.5
SESSION_MS = 2_000  # shorter than brokers allow by default, so that nobody waits for it longer than must be
LONG_SESSION_MS = 30_000
# Before which steps of which transaction a worker falls asleep: see `engine/kafka/transactor.py`.
SLEEPS = {
    "classic": [("records", n) for n in (2, 3, 4, 5, 6)] + [("alarms", 5), ("alarms", 6)],
    "consumer": [("records", 2), ("records", 5), ("records", 6), ("alarms", 5)],
}


@pytest.fixture(scope="module")
def broker(kafka_jars: None) -> Iterator[Broker]:
    short = {
        "group.min.session.timeout.ms": 500, "group.consumer.min.session.timeout.ms": 500,
        "group.consumer.session.timeout.ms": SESSION_MS, "group.consumer.min.heartbeat.interval.ms": 100,
        "group.consumer.heartbeat.interval.ms": 300,
    }  # fmt: skip
    with Broker(properties=short) as made:
        yield made


def audit_on(broker: Broker, folder: Path, **settings: Any) -> Audit:
    return Audit(broker, folder, new_prefix(), Random(5), RATE, **{"session_ms": SESSION_MS, **settings})


def owner_of(task: str, audit: Audit) -> str:
    """A worker that has units of the task, and keeps them for a while: now and then one has all of them."""
    since: dict[str, float] = {}

    def is_found() -> bool:
        owners = [name for name in ("w0", "w1") if audit.crew.told(name)["units"].get(task)]
        kept = {name: since.get(name, time.monotonic()) for name in owners}
        since.clear()
        since.update(kept)
        return any(time.monotonic() - began > KEPT_SECS for began in since.values())

    until(is_found, what=f"an owner of {task}")
    return min(since, key=lambda name: since[name])


def all_is_well(audit: Audit) -> None:
    found = audit.end()
    assert found.ok, found
    assert not audit.crew.deaths


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_who_sleeps_in_the_middle_of_a_commit_commits_nothing_when_it_wakes_up(
    broker: Broker, tmp_path: Path, protocol: str
) -> None:
    with audit_on(broker, tmp_path, group_protocol=protocol) as audit:
        audit.begin()
        for doing, step in SLEEPS[protocol]:
            who = owner_of("relay" if doing == "records" else "count", audit)
            lost = audit.crew.told(who)["lost"]
            audit.happen("zombie", who, step, doing)
            until(lambda who=who, lost=lost: audit.crew.told(who)["lost"] > lost, 30, "the loss of what it was about to commit")
        all_is_well(audit)


def test_a_dead_owners_open_transaction_is_fenced_and_not_waited_for(broker: Broker, tmp_path: Path) -> None:
    with audit_on(broker, tmp_path, transaction_timeout_ms=300_000) as audit:
        audit.begin()
        audit.crew.order("w0", "kill 6 records")
        until(lambda: audit.crew.living["w0"].process.poll() is not None, what="the death of w0")
        audit.crew.kill("w0")
        audit.again(until_known(audit.offsets))
        assert audit.crew.saw("w1", "whose transaction blocks a unit")
        all_is_well(audit)


def test_a_static_member_that_comes_back_in_time_finds_its_units_and_others_keep_theirs(broker: Broker, tmp_path: Path) -> None:
    with audit_on(broker, tmp_path, session_ms=LONG_SESSION_MS, group_instance=True) as audit:
        crew = audit.crew
        audit.begin()
        until(lambda: all(sum(map(len, crew.told(w)["units"].values())) == 4 for w in ("w0", "w1")), what="half of the units")
        had = {name: crew.told(name)["units"] for name in ("w0", "w1")}
        claims = crew.living["w1"].printed().count(" claimed ")
        crew.kill("w0")
        (tmp_path / "w0" / "owned").unlink()
        crew.start("w0")
        audit.again(until_known(audit.offsets))
        until(lambda: crew.told("w0")["units"] == had["w0"], what="its own units")
        assert crew.told("w1")["units"] == had["w1"]
        assert crew.living["w1"].printed().count(" claimed ") == claims
        all_is_well(audit)


def test_a_second_worker_of_the_same_name_takes_the_firsts_place_and_the_first_ends(broker: Broker, tmp_path: Path) -> None:
    with audit_on(broker, tmp_path, session_ms=LONG_SESSION_MS, group_instance=True) as audit:
        crew = audit.crew
        audit.begin()
        crew.freeze("w0")
        crew.start("twin", worker="w0")
        audit.again(until_known(audit.offsets))
        crew.thaw("w0")
        old = crew.living.pop("w0")
        try:
            until(lambda: old.process.poll() is not None, 30, "the end of the first")
        finally:
            old.stop(kill=True)
        assert "group: _FATAL" in old.printed()
        audit.again(until_known(audit.offsets))
        all_is_well(audit)
