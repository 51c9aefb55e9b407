"""A withdrawal, by whichever path it comes, denies as soon as the loop has gone round: within ten of its own intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import pytest

from engine.service import IDLE_SECS, Service
from law.book import shipped
from processors.decide_use import decide_use
from processors.permissions import Permissions
from processors.uses import PartyView, Use, UseName
from schemas.places import Place
from schemas.topics import ControllerState
from tests.endtoend.world import Told, envelope, topic_of

pytestmark = pytest.mark.slow

SEED = 99
WITHDRAWALS = 300
INTERVALS_MAX = 10
TRIES_MAX = 3  # another process on the machine can spoil a measurement, not three
ANSWER_SECS_MAX = 30.0
BACKGROUND_SECS = 0.01  # between two events of other people
AREAS = ("202", "212", "303")
CONSENT: dict[str, Any] = {"purposes": ["marketing"], "method": "web", "evidence": {}}
# How someone says no, and to which uses.
PATHS: tuple[tuple[str, dict[str, Any], tuple[UseName, ...]], ...] = (
    ("consent.withdrawn", CONSENT, ("dial", "share", "export", "train")),
    ("consent.withdrawn", CONSENT | {"purposes": ["*"], "method": "verbal"}, ("dial", "share", "export", "train")),
    ("consent.withdrawn", CONSENT | {"channels": ["voice"], "method": "dtmf"}, ("dial",)),
    ("consent.withdrawn", CONSENT | {"brand": "one", "method": "sms"}, ("dial",)),
    ("consent.refused", CONSENT | {"purposes": ["*"], "method": "agent"}, ("dial", "share", "export", "train")),
    ("suppression.added", {"list": "company_dnc", "source": "phone"}, ("dial",)),
    ("suppression.added", {"list": "national_dnc", "source": "registry"}, ("dial",)),
    ("suppression.added", {"list": "objection", "source": "letter"}, ("dial", "share", "export", "train")),
    ("suppression.added", {"list": "gpc", "source": "browser"}, ("share", "export")),
)  # fmt: skip


def identifier(n: int) -> tuple[str, str]:
    """Every third person is known by an address only."""
    if n % 3 == 2:
        return "email", f"person{n}@example.com"
    return "tel", f"+1{AREAS[n // 100 % 3]}55501{n % 100:02d}"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service.open(tmp_path / "data")
    yield service
    service.stop()


class Measured:
    """The service's own loop, with a stop-watch on each turn that had something to do."""

    def __init__(self, service: Service) -> None:
        self.service, self.turn_secs = service, list[float]()
        self._inner = service.loop.turn
        service.loop.turn = self._timed  # type: ignore[method-assign]

    def _timed(self) -> int:
        began = time.perf_counter()
        done = self._inner()
        if done:
            self.turn_secs.append(time.perf_counter() - began)
        return done


def publish(service: Service, type_: str, id_: str, n: int, data: dict[str, Any]) -> None:
    kind, value = identifier(n)
    now_ms = service.clock()
    told = Told(type_, id_, now_ms, {"identifiers": [{"kind": kind, "value": value}], **data})
    service.publish([(topic_of(type_), id_, envelope(told, now_ms))])


def known(service: Service, n: int) -> Permissions | None:
    return service.record("subject", service.secrets.ref("acme", *identifier(n)), Permissions)


def verdicts(service: Service, n: int, uses: tuple[UseName, ...]) -> set[str]:
    found = known(service, n)
    settings = ControllerState(controller="acme")
    party = [PartyView("customer", (found,), places=(Place("DE", ("Europe/Berlin",)),))]  # where no hour is closed to calls
    asked = [Use(use, service.clock(), "voice", "marketing", "one") for use in uses]
    return {decide_use(party, use, settings, shipped()).verdict for use in asked}


def until(true: Any) -> float:
    """Wait; returns when it became true. Looks as often as the scheduler lets it."""
    end = time.perf_counter() + ANSWER_SECS_MAX
    while not true():
        assert time.perf_counter() < end, "never came"
        time.sleep(0.0002)
    return time.perf_counter()


def test_a_withdrawal_by_any_path_denies_within_ten_intervals_of_the_loop(service: Service) -> None:
    print(f"seed {SEED}")
    measured = Measured(service)
    service.start()
    tries = []
    for attempt in range(TRIES_MAX):
        tries.append(_round(service, measured, attempt))
        if tries[-1] <= INTERVALS_MAX:
            return
    raise AssertionError(f"p99 in intervals of the loop, three times: {tries}")


def _round(service: Service, measured: Measured, attempt: int) -> float:
    rng = Random(SEED + attempt)
    for n in range(WITHDRAWALS):
        publish(service, "consent.given", f"{attempt}/given{n}", n, CONSENT)
        publish(service, "consent.given", f"{attempt}/brand{n}", n, CONSENT | {"brand": "one"})
        for name in ("company_dnc", "national_dnc", "objection", "gpc"):
            if attempt:
                publish(service, "suppression.removed", f"{attempt}/{name}{n}", n, {"list": name, "source": "test"})
    passed_ms = service.passed_ms()
    until(lambda: service.beat_ms() > passed_ms)  # else the last grant would be taken for the withdrawal
    until(lambda: all(verdicts(service, n, ("dial", "share", "export", "train")) == {"allow"} for n in range(WITHDRAWALS)))

    stop = threading.Event()

    def others() -> None:
        n = 0
        while not stop.wait(BACKGROUND_SECS):
            n += 1
            publish(service, "consent.given", f"{attempt}/other{n}", 100_001 + 3 * n, CONSENT)

    measured.turn_secs.clear()
    busy = threading.Thread(target=others)
    busy.start()
    took = []
    try:
        for n in rng.sample(range(WITHDRAWALS), WITHDRAWALS):
            type_, data, uses = PATHS[n % len(PATHS)]
            before = known(service, n)
            assert before is not None
            publish(service, type_, f"{attempt}/no{n}", n, data)
            returned = time.perf_counter()
            shown = until(lambda n=n, epoch=before.epoch: (known(service, n) or Permissions()).epoch > epoch)
            took.append(max(0.0, shown - returned))
            assert verdicts(service, n, uses) == {"deny"}, type_
    finally:
        stop.set()
        busy.join()
    interval = median(measured.turn_secs) + IDLE_SECS
    p99 = quantiles(took, n=100)[98]
    print(
        f"{len(took)} withdrawals: median {median(took) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, max {max(took) * 1e3:.1f} ms; "
        f"a turn {median(measured.turn_secs) * 1e3:.2f} ms, an interval {interval * 1e3:.0f} ms; "
        f"p99 is {p99 / interval:.3f} intervals, {p99 / median(measured.turn_secs):.1f} turns"
    )
    return p99 / interval
