"""Decisions by the law of the called place: from the number, unless a place is declared. The still clock stands at 8:00 UTC."""

from typing import Any

import pytest

from connectors.http.places import places_of
from schemas.codec import decode_as
from schemas.places import Place
from schemas.topics import Decision

from .conftest import consent

NEW_YORK, ANYWHERE, PARIS = "+12125550143", "+18005550143", "+33199000001"
PARIS_ZONE = ("Europe/Paris",)


def granted(still: Any, number: str, **more: Any) -> None:
    assert still.send("consent.given", consent(number, **more)).status_code == 202
    still.settle()


def test_the_number_says_what_time_it_is_there(still: Any) -> None:
    granted(still, NEW_YORK)
    asleep = still.decide(NEW_YORK)
    assert (asleep["reasons"], asleep["rules"]) == (["outside_calling_hours"], ["tcpa.64_1200_c_1.hours"])
    assert "tcpa_tsr@" in asleep["law_pack"]
    assert still.decide(NEW_YORK, callback=True)["verdict"] == "allow"
    assert still.decide(NEW_YORK, time_zone="Asia/Tokyo")["verdict"] == "allow"  # 17:00
    assert still.decide(NEW_YORK, jurisdiction="US-HI")["reasons"] == ["outside_calling_hours"]  # 22:00 of the day before
    assert still.decide(NEW_YORK, time_zone="Mars/Olympus")["reasons"] == ["calling_place_unknown"]
    assert still.decide(NEW_YORK, time_zone=NEW_YORK)["reasons"] == ["calling_place_unknown"]  # and is on no record
    afternoon = still.decide(NEW_YORK, at="2027-01-14T18:00:00Z")
    assert (afternoon["verdict"], afternoon["rules"]) == ("allow", ["tcpa.64_1200_c_1.hours"])
    found = [decode_as(Decision, r.value) for _, r in still.service.topic("decisions")]
    assert [d.rules for d in found if d.decision_id == asleep["decision_id"]] == [("tcpa.64_1200_c_1.hours",)]
    assert not any(b"2125550143" in r.value for _, r in still.service.topic("decisions"))


def test_a_toll_free_number_waits_for_all_of_its_zones_and_nobody_is_called_nowhere(still: Any) -> None:
    granted(still, ANYWHERE)
    assert still.decide(ANYWHERE, at="2027-01-14T18:00:00Z")["reasons"] == ["outside_calling_hours"]
    person = {"kind": "email", "value": "person@example.com"}
    still.send("consent.given", {**consent(""), "identifiers": [person]})
    still.settle()
    assert still.decide("", identifiers=[person])["reasons"] == ["calling_place_unknown"]
    assert still.decide("", identifiers=[person], jurisdiction="FI")["verdict"] == "allow"
    at_home = person | {"jurisdiction": "FI"}
    assert still.decide("", identifiers=[at_home])["verdict"] == "allow"
    abroad = {"kind": "crm", "value": "c-7", "jurisdiction": "FR"}  # one may be rung in France, where it is too early
    assert still.decide("", identifiers=[at_home, abroad])["reasons"] == ["outside_calling_hours"]
    nowhere = still.decide("", identifiers=[person], jurisdiction="UK", time_zone="Europe/London")
    assert nowhere["reasons"] == ["calling_place_unknown"]
    assert still.decide("", identifiers=[person], channel="email")["verdict"] == "allow"


def test_an_explanation_of_what_was_met_explains_no_denial_for_another_reason(still: Any) -> None:
    granted(still, PARIS)
    met = still.decide(PARIS, at="2027-01-14T13:30:00Z")
    assert (met["verdict"], met["rules"]) == ("allow", ["eu.marketing.hours", "eu.marketing.opt_in"])
    still.now_ms += 60_000
    stale = still.decide(PARIS, at="2027-01-14T13:30:00Z")
    assert (stale["reasons"], stale["rules"]) == (["stale"], [])


def test_settings_say_how_old_the_national_list_is_and_which_calls_are_recorded(still: Any) -> None:
    granted(still, NEW_YORK)
    settings = {"default_region": "US", "employee_basis": "contract", "national_dnc_as_of": "2026-12-01T00:00:00Z",
                "recording_duty": [{"campaign": "funds"}]}  # fmt: skip
    assert still.send("controller.configured", settings).status_code == 202
    still.settle()
    afternoon = {"at": "2027-01-14T18:00:00Z"}
    assert still.decide(NEW_YORK, **afternoon)["reasons"] == ["national_dnc_stale"]
    assert still.decide(NEW_YORK, **afternoon, campaign="funds")["reasons"] == ["national_dnc_stale", "recording_duty_unmet"]


def test_a_consent_that_a_child_gave_alone_is_none(still: Any) -> None:
    granted(still, "+493090182390", age=12)
    granted(still, "+493090182391", age=12, by_guardian=True)
    assert still.decide("+493090182390")["reasons"] == ["below_consent_age"]
    assert still.decide("+493090182391")["verdict"] == "allow"
    assert still.send("consent.given", consent("+493090182392", age=-1)).status_code == 400


def test_the_first_day_of_all_is_a_day_like_another(still: Any) -> None:
    granted(still, NEW_YORK)
    assert still.decide(NEW_YORK, at="0001-01-01T00:00:00+14:00")["verdict"] in ("allow", "deny")
    assert still.send("consent.given", consent(PARIS, age=12), time="0001-01-01T00:00:00Z").status_code == 202
    still.settle()
    assert "below_consent_age" in still.decide(PARIS, at="2027-01-14T13:30:00Z")["reasons"]


@pytest.mark.parametrize(("numbers", "jurisdiction", "time_zone", "found"), [
    ([(NEW_YORK, None)], None, None, (Place("US-NY", ("America/New_York",)),)),
    ([(NEW_YORK, None), (PARIS, None)], None, None, (Place("US-NY", ("America/New_York",)), Place("FR", PARIS_ZONE))),
    ([(NEW_YORK, "FR")], None, None, (Place("FR", PARIS_ZONE),)),
    ([(NEW_YORK, "DE")], "FR", None, (Place("FR", PARIS_ZONE),)),
    ([(NEW_YORK, None)], "US", None, (Place("US-NY", ("America/New_York",)),)),  # the number tells the state of a country
    ([(NEW_YORK, None)], "US-CA", None, (Place("US-CA", ("America/Los_Angeles",)),)),
    ([(NEW_YORK, None)], None, "Europe/Paris", (Place("US-NY", PARIS_ZONE),)),
    ([], "FR", None, (Place("FR", PARIS_ZONE),)),
    ([(PARIS, None)], "EU", None, (Place("FR", PARIS_ZONE),)),  # nor does the Union hide the member
    ([(PARIS, "EU")], None, None, (Place("FR", PARIS_ZONE),)),
    ([(ANYWHERE, "US-CA")], "US", None, (Place("US-CA", ("America/Los_Angeles",)),)),
    ([("+17875550143", None)], "US", None, (Place("PR", ("America/Puerto_Rico",)),)),
    ([(PARIS, None)], "FR-974", None, (Place("FR-974", ("Indian/Reunion",)),)),
    ([("", "FR"), ("", "SE")], None, None, (Place("FR", PARIS_ZONE), Place("SE", ("Europe/Stockholm",)))),
    ([], "QQ", None, (Place("", ()),)),  # no place: nobody knows what was meant
    ([(PARIS, None)], "UK", None, (Place("", ()),)),
    ([(PARIS, None)], "UK", "Europe/London", (Place("", ("Europe/London",)),)),
    ([(PARIS, "FR\n")], None, "Asia/Tokyo", (Place("", ("Asia/Tokyo",)),)),
    ([], None, None, ()),
])  # fmt: skip
def test_what_is_declared_wins(numbers: Any, jurisdiction: str | None, time_zone: str | None, found: Any) -> None:
    assert places_of(numbers, jurisdiction, time_zone) == found
