"""Versions of a pack: what a controller activates is in force for it, and for nobody else."""

import json
from datetime import date
from pathlib import Path

import msgspec
import pytest

from engine.service import Service
from law.book import Book, Library, shipped, shipped_library
from law.reading import PackRefused
from law.rows import Pack, Period, Row
from processors.configure_controller import ConfigureController
from schemas.codec import decode_as
from schemas.routed import Envelope
from schemas.topics import ControllerState, RequestStatus
from tests.drivers import CONTROLLER, Driver

RESPOND, ON = "gdpr.art12.response", date(2026, 3, 1)


def newer(version: str = "2099.1", days: int = 14) -> Pack:
    """A version of the GDPR pack under which an answer is due in days."""
    old = shipped_library().pack("gdpr", "2026.1")
    period = Period(amount=days, unit="days")
    rows = tuple(msgspec.structs.replace(r, period=period) if r.rule == RESPOND else r for r in old.rows)
    return msgspec.structs.replace(old, version=version, rows=rows)


def days_of(book: Book) -> int:
    row = book.row(RESPOND, "DE", ON)
    assert row is not None and row.period is not None
    return row.period.amount


def test_the_newest_version_is_in_force_until_another_is_activated_and_for_this_controller_alone() -> None:
    driver = Driver(ConfigureController(), library=Library([*shipped().packs, newer()]))
    driver.send("controller acme", "law.activated", {"pack": "gdpr", "version": "2026.1"}, at=10)
    state = driver.rows("controllers")[CONTROLLER,]
    assert isinstance(state, ControllerState) and driver.library is not None
    assert days_of(driver.library.newest) == 14 and days_of(driver.library.book(state.law)) == 1
    assert "gdpr@2026.1" in driver.library.book(state.law).names and "gdpr@2099.1" in driver.library.newest.names


def test_a_version_that_is_not_there_stands_for_no_other() -> None:
    with pytest.raises(PackRefused, match=r"gdpr@1\.1: unknown-version"):
        shipped_library().book({"gdpr": "1.1"})
    assert not shipped().offers({"gdpr": "1.1"}) and shipped().offers({"gdpr": "2026.1"})


def test_of_versions_the_greatest_number_is_the_newest() -> None:
    library = Library([newer("2026.10", 10), newer("2026.9", 9)])
    assert days_of(library.newest) == 10


def test_one_version_is_there_once() -> None:
    with pytest.raises(PackRefused, match=r"gdpr@2026\.1: twice"):
        Library([*shipped().packs, newer("2026.1")])


def test_two_packs_do_not_both_rule_at_one_place() -> None:
    with pytest.raises(PackRefused, match=r"gdpr\.art12\.response EU 2018-05-25: overlap"):
        Book([*shipped().packs, msgspec.structs.replace(newer(), pack="own")])


def test_a_row_of_an_own_pack_for_one_place_names_no_pack_for_others() -> None:
    own = msgspec.structs.replace(
        newer(), pack="acme", rows=tuple(msgspec.structs.replace(r, places=("FR",)) for r in newer().rows if r.rule == RESPOND)
    )
    book = Book([*shipped().packs, own])
    rows = {place: book.row(RESPOND, place, ON) for place in ("FR", "DE")}
    assert {place: book.pack_of(row).pack for place, row in rows.items() if row} == {"FR": "acme", "DE": "gdpr"}


def test_packs_that_do_not_go_together_are_refused_one_right_after_the_other() -> None:
    """The context's settings know of the first a turn later."""
    row = Row(
        rule="own.rule", kind="flag", flag=True, places=("EU",), article="a", source="s", certainty="M", status="law",
        valid_from=date(2020, 1, 1),
    )  # fmt: skip
    both = [Pack(pack=name, version="1", title=name, rows=(row,)) for name in ("own_a", "own_b")]
    driver = Driver(ConfigureController(), library=Library(shipped().packs, both))
    for at, name in enumerate(("own_a", "own_b"), 1):
        driver.send("controller acme", "law.activated", {"pack": name, "version": "1"}, at=at)
    assert [refused.code for refused in driver.refusals] == ["unknown-law"]
    state = driver.rows("controllers")[CONTROLLER,]
    assert isinstance(state, ControllerState) and state.law == {"own_a": "1"}


def test_what_a_missing_version_decides_on_waits_for_it_and_is_not_set_aside(tmp_path: Path) -> None:
    def event(type_: str, at_ms: int, **data: object) -> Envelope:
        return Envelope(
            id=type_, source="t", type=type_, controller=CONTROLLER, time_ms=at_ms, receipt_ms=at_ms,
            content_type="application/json", data=json.dumps(data).encode(),
        )  # fmt: skip

    request = {"request_id": "r", "right": "erasure", "regime": "gdpr", "received_via": "web", "identifiers": [
        {"kind": "tel", "value": "+12025550123"}]}  # fmt: skip
    mounted = Library(shipped().packs, [newer()])
    service = Service.open(tmp_path, clock=lambda: 3_000, library=mounted)
    service.publish([("controls", "k", event("law.activated", 1_000, pack="gdpr", version="2099.1"))])
    service.settle()
    service.shared.library = shipped_library()
    service.publish([("requests", "r", event("request.opened", 2_000, **request))])
    with pytest.raises(PackRefused, match=r"gdpr@2099\.1: unknown-version"):
        service.settle()
    service.stop()
    service = Service.open(tmp_path, clock=lambda: 3_000, library=mounted)
    service.settle()
    (status,) = [decode_as(RequestStatus, r.value) for _, r in service.topic("requests.state") if r.value is not None]
    assert (status.request_id, status.law_pack) == ("r", "gdpr@2099.1") and list(service.topic("quarantine")) == []
    service.stop()
