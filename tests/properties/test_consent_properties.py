"""However consent events arrive (any order, any copies, any batches), the state and the decisions are the same.

The oracle below shares no code with the processor: it sorts all events and scans them.
"""

from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from law.book import shipped
from processors.decide_use import decide_use
from processors.keep_consent import KeepConsent
from processors.permissions import Permissions, resolve, status_at
from processors.uses import PartyView, Use, UseName, Verdict
from schemas.places import Place
from schemas.topics import ControllerState
from tests.drivers import Driver

PURPOSES, CHANNELS, BRANDS = ("marketing", "recording"), ("voice", "sms"), ("acme-de", "acme-fr")
IDENTIFIER = {"kind": "tel", "value": "+12025550143"}
SOMEWHERE = (Place("DE", ("Europe/Berlin",)),)
END_MS = 10_000  # after every expiry and every receipt
CELLS = [(p, c, b) for p in PURPOSES for c in CHANNELS for b in BRANDS]


class Sent(NamedTuple):
    kind: str
    id: str
    time: int
    received: int
    data: dict[str, Any]

    @property
    def effective(self) -> int:
        return min(self.time, self.received)


def moment(ms: int) -> str:
    return f"1970-01-01T00:00:{ms // 1000:02d}.{ms % 1000:03d}Z"


@st.composite
def consents(draw: st.DrawFn) -> Sent:
    status = draw(st.sampled_from(["given", "refused", "withdrawn", "renewed"]))
    wild = status in ("refused", "withdrawn") and draw(st.booleans())
    time = draw(st.integers(1, 12))
    data: dict[str, Any] = {
        "identifiers": [IDENTIFIER],
        "purposes": ["*"] if wild else draw(st.lists(st.sampled_from(PURPOSES), min_size=1, max_size=2)),
        "channels": draw(st.sampled_from([["*"], ["voice"], ["sms"], ["voice", "sms"]])),
        "brand": draw(st.sampled_from(["*", *BRANDS])),
        "method": "web",
        "evidence": {"agent": "Jo Example"} if draw(st.booleans()) else {},
    }
    if draw(st.integers(0, 2)) == 0:
        data["valid_until"] = moment(draw(st.integers(5, 200)))
    received = draw(st.sampled_from([time, time + 5, max(1, time - 4)]))
    return Sent(f"consent.{status}", "", time, received, data)


@st.composite
def suppressions(draw: st.DrawFn) -> Sent:
    kind = draw(st.sampled_from(["suppression.added", "suppression.removed"]))
    data = {
        "identifiers": [IDENTIFIER],
        "list": draw(st.sampled_from(["company_dnc", "objection"])),
        "source": "crm",
    }
    time = draw(st.integers(1, 8))
    return Sent(kind, "", time, time, data)


def numbered(events: list[Sent]) -> list[Sent]:
    return [event._replace(id=f"e{number}") for number, event in enumerate(events)]


histories = st.lists(st.one_of(consents(), consents(), suppressions()), min_size=1, max_size=12).map(numbered)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Sent], list[list[Sent]]]:
    """A history, and one way of delivering it: shuffled, with copies, cut into batches."""
    history = draw(histories)
    copies = draw(st.lists(st.sampled_from(history), max_size=6))
    order = draw(st.permutations([*history, *copies]))
    cuts = draw(st.lists(st.integers(0, len(order)), max_size=4).map(sorted))
    edges = [0, *cuts, len(order)]
    return history, [order[a:b] for a, b in pairwise(edges)]


def deliver(batches: list[list[Sent]], end_ms: int = END_MS) -> Driver:
    driver = Driver(KeepConsent())
    for batch in batches:
        with driver.batch():
            for event in batch:
                driver.send("A", event.kind, event.data, at=event.time, received=event.received, id=event.id)
    driver.advance(end_ms)
    return driver


def rows(driver: Driver) -> dict[tuple[str, ...], dict[str, Any]]:
    """Both topics as they rest; the epoch of a row says when it was told, which depends on the way."""
    found = {**driver.rows("consent.state"), **driver.rows("suppression.state")}
    return {key: {k: v for k, v in msgspec.to_builtins(row).items() if k != "epoch"} for key, row in found.items()}


def verdicts(driver: Driver) -> list[Verdict]:
    party = PartyView("customer", (driver.get("A", Permissions),), places=SOMEWHERE)
    asked: list[Verdict] = []
    uses: tuple[UseName, ...] = ("dial", "record", "share")
    for use in uses:
        for p, c, b in [*CELLS, ("marketing", "voice", "*"), ("recording", "*", "*")]:
            for at in (6, 100, END_MS):
                verdict = decide_use((party,), Use(use, at, c, p, b), ControllerState(controller="acme"), shipped())
                asked.append(verdict)
    return asked


def oracle(history: list[Sent], p: str, c: str, b: str, now: int) -> str | None:
    """Sort everything by the contract's order, then scan: the last event that covers the cell is what holds."""

    def order(event: Sent) -> tuple[int, int, str]:
        denies = event.kind in ("consent.refused", "consent.withdrawn")
        return (event.effective, 1 if denies else 0, sha256(f"test\x1f{event.id}".encode()).hexdigest()[:24])

    status = None
    for event in sorted((e for e in history if e.kind.startswith("consent.")), key=order):
        d = event.data
        if (
            (p in d["purposes"] or "*" in d["purposes"])
            and (c in d["channels"] or "*" in d["channels"])
            and d["brand"] in (b, "*")
        ):
            status = event.kind.removeprefix("consent.")
            until = d.get("valid_until")
            if until and moment(now) >= until and status in ("given", "renewed"):
                status = "expired"
    return status


@settings(max_examples=150, deadline=None)
@given(deliveries())
def test_order_copies_and_batches_do_not_matter(delivery: tuple[list[Sent], list[list[Sent]]]) -> None:
    history, batches = delivery
    straight, crooked = deliver([history]), deliver(batches)
    assert rows(straight) == rows(crooked)
    assert verdicts(straight) == verdicts(crooked)
    one, other = straight.get("A", Permissions), crooked.get("A", Permissions)
    assert one.epoch == other.epoch == len(history)
    assert straight.count("A", "evidence") == crooked.count("A", "evidence") == one.evidence == other.evidence


@settings(max_examples=150, deadline=None)
@given(deliveries(), st.sampled_from([3, 20, 100, 250]))
def test_a_cell_holds_what_a_scan_of_all_events_says(delivery: tuple[list[Sent], list[list[Sent]]], now: int) -> None:
    history, batches = delivery
    permissions = deliver(batches).get("A", Permissions)
    for p, c, b in CELLS:
        found = resolve(permissions, p, c, b)
        assert (found and status_at(found, now)) == oracle(history, p, c, b, now)


@settings(max_examples=150, deadline=None)
@given(deliveries())
def test_readers_are_told_what_a_scan_of_all_events_says(delivery: tuple[list[Sent], list[list[Sent]]]) -> None:
    history, batches = delivery
    told = deliver(batches).rows("consent.state")
    said = {
        ("A", p, c, e.data["brand"])
        for e in history
        if e.kind.startswith("consent.")
        for p in e.data["purposes"]
        for c in e.data["channels"]
    }
    assert set(told) == said
    for (_, p, c, b), row in told.items():
        assert row.status == oracle(history, p, c, b, END_MS)  # type: ignore[attr-defined]


@settings(max_examples=100, deadline=None)
@given(deliveries())
def test_folded_audit_entries_are_the_state(delivery: tuple[list[Sent], list[list[Sent]]]) -> None:
    _, batches = delivery
    driver = deliver(batches)
    consent: dict[tuple[str, ...], str] = {}
    lists: set[str] = set()
    for entry in driver.audits:
        facts = entry.facts
        if entry.kind == "consent.changed":
            consent[facts["purpose"], facts["channel"], facts["brand"]] = facts["status"]
        elif entry.kind == "suppression.changed":
            (lists.add if facts["on"] == "yes" else lists.discard)(facts["list"])
    assert consent == {key[1:]: row.status for key, row in driver.rows("consent.state").items()}  # type: ignore[attr-defined]
    assert lists == {key[1] for key in driver.rows("suppression.state")}


@settings(max_examples=100, deadline=None)
@given(histories, st.data())
def test_a_withdrawn_consent_never_comes_back_by_replay(history: list[Sent], data: st.DataObject) -> None:
    """Replayed at once, or published again when the ids are forgotten (receipt weeks later)."""
    driver = deliver([history])
    driver.send(
        "A",
        "consent.withdrawn",
        {"identifiers": [IDENTIFIER], "purposes": ["*"], "method": "web", "evidence": {}},
        at=500,
        received=500,
        id="stop",
    )
    weeks = data.draw(st.sampled_from([0, 21 * 86_400_000]))
    for event in data.draw(st.permutations(history)):
        driver.send("A", event.kind, event.data, at=event.time, received=max(event.received, weeks), id=event.id)
    permissions = driver.get("A", Permissions)
    for p, c, b in CELLS:
        found = resolve(permissions, p, c, b)
        assert found is not None
        assert found.status == "withdrawn"
    assert {row.status for row in driver.rows("consent.state").values()} == {"withdrawn"}  # type: ignore[attr-defined]


@settings(max_examples=100, deadline=None)
@given(st.lists(histories, min_size=2, max_size=3), st.sampled_from(["dial", "record", "share"]), st.sampled_from(CELLS))
def test_deny_wins_within_a_party_and_across_parties(people: list[list[Sent]], use: str, cell: tuple[str, str, str]) -> None:
    views = [deliver([history]).get("A", Permissions) for history in people]
    assume(all(views))
    p, c, b = cell
    asked = Use(use, END_MS, c, p, b)  # type: ignore[arg-type]
    nobody = ControllerState(controller="acme")
    parties = [PartyView("customer", (v,), places=SOMEWHERE) for v in views]
    alone = [decide_use((party,), asked, nobody, shipped()) for party in parties]
    apart = decide_use(parties, asked, nobody, shipped())
    assert set(apart.reasons) == {reason for one in alone for reason in one.reasons}
    together = decide_use((PartyView("customer", tuple(views), places=SOMEWHERE),), asked, nobody, shipped())
    denials = {reason for one in alone for reason in one.reasons} - {"consent_unknown"}
    unknown = all("consent_unknown" in one.reasons for one in alone)
    assert set(together.reasons) == denials | ({"consent_unknown"} if unknown else set())
    assert apart.epoch == together.epoch == max(view.epoch for view in views)
