"""What the embedded deployment promises its doors: durable, fresh or saying so, and raw data that goes with its key."""

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec
import pytest

from engine.keyring import RingMissing
from engine.runtime import CommitLost, FolderInUse, Output
from engine.sealing import raw_key_id
from engine.service import Limits, Service
from processors.permissions import Permissions
from schemas.identifiers import normalise
from schemas.routed import Envelope
from tests.harness import CUSTOMER

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CONSENT = {"identifiers": [{"kind": "tel", "value": CUSTOMER}], "purposes": ["service"], "method": "web"}


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_772_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[Service]:
    found = Service.open(tmp_path / "data", clock=clock, limits=Limits(raw_retention_secs=3600))
    yield found
    found.stop()


def consent(service: Service, n: int = 0, type_: str = "consent.given") -> None:
    now_ms = service.clock()
    envelope = Envelope(
        id=f"e{n}", source="test", type=type_, controller="acme", time_ms=now_ms, receipt_ms=now_ms,
        content_type="application/json", data=msgspec.json.encode(CONSENT),
    )  # fmt: skip
    service.publish([("consents", f"e{n}", envelope)])


def permissions(service: Service) -> Permissions | None:
    ref = service.secrets.ref("acme", "tel", normalise("tel", CUSTOMER, None))
    return service.record("subject", ref, Permissions)


def raw_records(service: Service) -> list[Any]:
    return [r for topic in ("consents", "subject.events") for _, r in service.topic(topic)]


def test_what_was_published_survives_a_restart_and_is_folded_then(tmp_path: Path, clock: Clock) -> None:
    service = Service.open(tmp_path / "data", clock=clock)
    consent(service)
    service.stop()
    service = Service.open(tmp_path / "data", clock=clock)
    assert permissions(service) is None
    service.settle()
    found = permissions(service)
    assert found is not None and found.epoch == 1
    service.stop()


def test_it_is_ready_only_when_what_was_there_at_the_start_is_folded(tmp_path: Path) -> None:
    service = Service.open(tmp_path / "data")
    consent(service)
    assert not service.ready
    service.start()
    until = monotonic() + 10
    while not service.ready and monotonic() < until:
        sleep(0.005)
    assert service.ready and permissions(service) is not None
    service.stop()


def test_a_dead_engine_is_not_ready_and_says_what_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service.open(tmp_path / "data")

    def dies() -> int:
        raise OSError(f"disk of {CUSTOMER}")

    monkeypatch.setattr(service.loop, "turn", dies)
    service.start()
    until = monotonic() + 10
    while service.failed is None and monotonic() < until:
        sleep(0.005)
    assert (service.failed, service.ready) == ("OSError", False)
    assert CUSTOMER not in caplog.text
    service.stop()


def test_a_second_one_on_the_same_folder_is_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(FolderInUse):
        Service.open(tmp_path / "data")


def test_a_folder_with_data_whose_ring_is_missing_is_refused(tmp_path: Path, clock: Clock) -> None:
    Service.open(tmp_path / "data", clock=clock).stop()
    (tmp_path / "data.ring").unlink()
    with pytest.raises(RingMissing):
        Service.open(tmp_path / "data", clock=clock)


def test_raw_records_go_when_they_are_old_and_folded_and_then_their_key(service: Service, clock: Clock) -> None:
    consent(service)
    key_id = raw_key_id(next(r for _, r in service.topic("consents")).value or b"")
    service.settle()
    clock.now_ms += HOUR_MS + 1
    assert service.retain_raw() == 2  # as published, and as sent on
    assert raw_records(service) == []
    service.maintain()  # the hour is over: its key is closed, and nothing rests under it
    service.maintain()
    assert service.ring.raw_key_by_id(key_id) is None
    assert permissions(service) is not None


def test_raw_records_that_are_not_folded_stay_and_so_does_their_key(service: Service, clock: Clock) -> None:
    consent(service)
    key_id = raw_key_id(next(r for _, r in service.topic("consents")).value or b"")
    clock.now_ms += 30 * HOUR_MS
    assert service.retain_raw(at_once=True) == 0
    assert service.ring.raw_key_by_id(key_id) is not None
    service.settle()
    assert permissions(service) is not None


def test_raw_records_younger_than_their_retention_stay_readable(service: Service, clock: Clock) -> None:
    consent(service, 1)
    clock.now_ms += HOUR_MS // 2
    consent(service, 2)
    service.settle()
    clock.now_ms += HOUR_MS // 2 + 1
    assert service.retain_raw(at_once=True) == 1, "sent on just now, so only the first as published is old enough"
    kept = [r for _, r in service.topic("consents")]
    assert len(kept) == 1
    assert service.secrets.open_raw("consents", kept[0].value or b"") is not None


def test_no_key_goes_while_something_is_being_published_under_it(service: Service, clock: Clock) -> None:
    token = service.secrets.seal_raw("consents", b"on its way", clock())
    service._publishing[0] = clock()
    clock.now_ms += 2 * HOUR_MS
    service.retain_raw(at_once=True)
    assert service.ring.raw_key_by_id(raw_key_id(token)) is not None
    del service._publishing[0]
    service.retain_raw(at_once=True)
    assert service.ring.raw_key_by_id(raw_key_id(token)) is None


def test_a_publish_is_all_or_nothing_and_seals_everything(service: Service, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError)):
        now_ms = service.clock()
        good = Envelope(
            id="a", source="s", type="t", controller="acme", time_ms=now_ms, receipt_ms=now_ms, data=CUSTOMER.encode()
        )
        service.publish([("consents", "k", good), ("no.such.topic", "k", good)])
    assert raw_records(service) == []
    service.publish([("consents", "k", good)])
    for path in (tmp_path / "data").iterdir():
        assert CUSTOMER.encode() not in path.read_bytes() if path.name != "consentinel.db" else True
    assert CUSTOMER.encode() not in b"".join(r.value or b"" for r in raw_records(service))


def test_quarantined_originals_go_with_their_days_key(service: Service, clock: Clock) -> None:
    service.runtime.append([Output("consents", b"k", b"broken")], clock())
    service.settle()
    (_, record), *_ = service.topic("quarantine")
    assert record.value is not None
    clock.now_ms += 31 * DAY_MS
    for _ in range(3):
        service.maintain()
    assert list(service.topic("quarantine")) == []
    assert [n for n, class_, _, _ in service.ring.raw_keys() if class_ == "quarantine"] == []


def test_the_ring_and_the_folder_are_private(service: Service, tmp_path: Path) -> None:
    assert os.stat(tmp_path / "data.ring").st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "data").st_mode & 0o777 == 0o700


def test_what_is_published_while_raw_records_go_is_never_lost(
    service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = service.retention.delete_before

    def meanwhile(topics: Any, cutoff: int) -> int:
        clock.now_ms += 5
        consent(service, 1)
        return delete(topics, cutoff)

    monkeypatch.setattr(service.retention, "delete_before", meanwhile)
    consent(service)
    service.settle()
    clock.now_ms += 2 * HOUR_MS
    service.retain_raw(at_once=True)
    service.settle()
    found = permissions(service)
    assert found is not None and found.epoch == 2
    assert list(service.topic("quarantine")) == []


def test_what_lands_while_topics_are_looked_at_keeps_its_key(
    service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.secrets.seal_raw("consents", b"on its way", clock())
    service._publishing[0] = clock()
    clock.now_ms += 2 * HOUR_MS
    look = service.retention.oldest_ts_ms

    def meanwhile(topic: str) -> int | None:
        seen = look(topic)
        service._publishing.pop(0, None)  # durable now, but the topic was looked at before
        return seen

    monkeypatch.setattr(service.retention, "oldest_ts_ms", meanwhile)
    service.retain_raw(at_once=True)
    assert service.ring.raw_key_by_id(raw_key_id(token)) is not None


def test_a_clock_set_back_destroys_no_key_that_is_needed(service: Service, clock: Clock) -> None:
    clock.now_ms += HOUR_MS
    consent(service)
    clock.now_ms -= HOUR_MS
    service.retain_raw(at_once=True)  # closes the key at a time before its record
    service.settle()
    assert permissions(service) is not None


def test_one_failed_round_of_maintenance_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service.open(tmp_path / "data", limits=Limits(maintenance_secs=0.01))
    rounds: list[int] = []

    def fails(**_: Any) -> None:
        rounds.append(1)
        raise CommitLost

    monkeypatch.setattr(service, "maintain", fails)
    service.start()
    until = monotonic() + 10
    while len(rounds) < 3 and monotonic() < until:
        sleep(0.005)
    assert len(rounds) >= 3 and service.failed is None
    assert service.shared.counts["maintenance_failed",] >= 2
    service.stop()


def test_doors_see_one_beat_for_everybody_and_state_no_older_than_it(service: Service, clock: Clock) -> None:
    ref = service.secrets.ref("acme", "tel", normalise("tel", CUSTOMER, None))
    assert [(look.beat_ms, look.records) for look in service.look([ref], (Permissions,))] == [(0, (None,))]
    consent(service)
    clock.now_ms += 1
    service.settle()
    look = service.look([ref], (Permissions,))[0]
    assert look.records == (permissions(service),) and look.denials == () and look.whole
    assert look.beat_ms == service.beat_ms() == service.beats()[service.lane(ref)] == clock.now_ms


def test_a_clock_that_is_set_back_brings_no_time_that_a_beat_has_passed_already(service: Service, clock: Clock) -> None:
    service.settle()
    before = service.passed_ms()
    clock.now_ms -= 60_000
    assert service.passed_ms() == before >= service.beat_ms()
