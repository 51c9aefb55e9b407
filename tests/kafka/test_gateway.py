"""What a gateway on a cluster promises: accepted is durable, a withdrawal holds at every door at once, and old state denies."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.clock import system_clock
from engine.deployment import Unreachable
from engine.evidence import proof_of, report_of
from engine.layout import state_key
from engine.runtime import RuntimeFault
from processors.permissions import Permissions
from schemas.events import ConsentChanged, Evidence
from tests.doors.http.conftest import consent
from tests.parts.kafka import Broker, Kafka
from tests.parts.redis import RedisServer
from tests.parts.topics import new_prefix

from .gateway_site import WAIT_SECS_MAX, Gateway, Site, until

pytestmark = pytest.mark.slow
NUMBERS = [f"+4930901822{n:02d}" for n in range(40)]
NUMBER = NUMBERS[0]
WITHDRAWN = ConsentChanged(identifiers=(), purposes=("marketing",), method="web", evidence=Evidence())


@pytest.fixture
def redis_() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def site(kafka: Kafka, redis_: RedisServer, fresh_prefix: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(kafka.bootstrap, redis_.url, fresh_prefix, tmp_path)
    try:
        yield made
    finally:
        made.close()


def verdict(gateway: Gateway, number: str = NUMBER) -> tuple[str, list[str]]:
    gateway.door.sweep()  # as a served door does all the time
    answer = gateway.decide(number)
    return answer["verdict"], answer["reasons"]


ALLOW = ("allow", [])


def test_an_accepted_event_is_on_its_topic_sealed_and_opens_again(site: Site) -> None:
    gateway = site.gateway()
    for number in NUMBERS[:5]:
        assert gateway.send("consent.given", consent(number)).status_code == 202
    found = gateway.envelopes("consents")
    assert {e.type for e in found} == {"consent.given"} and len(found) == 5
    assert sorted(b"".join(e.data for e in found).count(n.encode()) for n in NUMBERS[:6]) == [0, 1, 1, 1, 1, 1]
    assert not any(number.encode() in (r.value or b"") for _, r in gateway.service.topic("consents") for number in NUMBERS)


def test_decisions_follow_the_changelog_and_its_age_partition_by_partition(site: Site) -> None:
    gateway, feed = site.gateway(), site.feed()
    assert verdict(gateway)[0] == "deny"
    for number in NUMBERS:
        gateway.send("consent.given", consent(number))
    site.fresh()
    assert all(verdict(gateway, number) == ALLOW for number in NUMBERS)
    time.sleep(5.2)  # nobody beats: everybody's state grows too old
    assert verdict(gateway) == ("deny", ["stale"])
    site.fold(beating=(0, 1))
    late = system_clock()
    until(lambda: gateway.service.beats()[0] > late - 5_000)
    ref = {number: gateway.door.refs("acme", [("tel", number)], gateway.service.settings("acme"))[0] for number in NUMBERS}
    for number in NUMBERS:
        assert verdict(gateway, number) == (ALLOW if gateway.service.lane(ref[number]) < 2 else ("deny", ["stale"]))
    site.fresh()
    assert verdict(gateway, NUMBERS[-1]) == ALLOW
    assert feed.failed is None and feed.last_error is None and sum(feed.lag.values()) <= 2 * len(feed.positions)


def test_a_withdrawal_at_one_gateway_denies_at_the_other_at_once_and_until_it_is_folded(site: Site) -> None:
    one, other = site.gateway(), site.gateway()
    site.feed()
    one.send("consent.given", consent(NUMBER))
    site.fresh()
    assert verdict(one) == verdict(other) == ALLOW
    assert one.send("consent.withdrawn", consent(NUMBER)).status_code == 202
    assert verdict(one) == verdict(other) == ("deny", ["withdrawal_pending"])
    site.fold()  # folded, but no beat is past it on a clock that may be two seconds off
    until(lambda: "consent_withdrawn" in verdict(other)[1])
    assert "withdrawal_pending" in verdict(other)[1]
    site.fresh(past_ms=system_clock() + 2_500)
    until(lambda: verdict(one) == verdict(other) == ("deny", ["consent_withdrawn"]), 2)


def test_a_mark_of_a_gateway_that_died_ends_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = site.gateway()
    site.feed()
    gateway.send("consent.given", consent(NUMBER))
    site.fresh()
    monkeypatch.setattr("connectors.redis.board.NOTE_SECS_MAX", 1)
    ref = gateway.door.refs("acme", [("tel", NUMBER)], gateway.service.settings("acme"))[0]
    entries = gateway.door.marks.add("consent.withdrawn", WITHDRAWN, [ref])
    assert gateway.door.marks.post(entries)
    dead = gateway.door.marks._by_ref.pop(ref)  # it is on the board alone, as after a crash
    assert len(dead) == 1 and verdict(gateway) == ("deny", ["withdrawal_pending"])
    time.sleep(1.1)
    site.fresh()
    assert verdict(gateway) == ALLOW


def test_what_was_never_committed_is_never_read(site: Site) -> None:
    gateway = site.gateway()
    site.feed()
    site.fresh()
    site.abort("subject", 0, state_key("nobody", Permissions.KIND, ()), b"junk")
    site.fresh()
    assert list(gateway.service._keyed.scan("subject", 0, b"snobody")) == []  # type: ignore[attr-defined]


def test_without_redis_decisions_deny_consents_pass_and_a_withdrawal_is_kept_but_not_answered_202(
    site: Site, redis_: RedisServer
) -> None:
    one, other = site.gateway(), site.gateway()
    feed = site.feed()
    for number in NUMBERS[:2]:
        one.send("consent.given", consent(number))
    site.fresh()
    assert verdict(one) == verdict(other) == ALLOW
    redis_.stop(keep=True)
    assert verdict(one) == ("deny", ["unreachable"])
    assert one.send("consent.given", consent(NUMBERS[2])).status_code == 202
    response = one.send("consent.withdrawn", consent(NUMBER))
    assert response.status_code == 503 and response.headers["retry-after"]
    assert [e.type for e in one.envelopes("consents")].count("consent.withdrawn") == 1
    site.fold()
    redis_.start()
    assert verdict(other)[0] == "deny"  # empty, or not caught up, or not trusted yet: never an allow
    give_up = time.monotonic() + WAIT_SECS_MAX
    while verdict(other, NUMBERS[2]) != ALLOW:
        assert time.monotonic() < give_up
        assert verdict(other)[0] == "deny"  # at no moment of the recovery
        site.fold()
        time.sleep(0.05)
    assert verdict(other) == ("deny", ["consent_withdrawn"])
    assert one.send("consent.withdrawn", consent(NUMBER)).status_code == 202
    assert feed.failed is None


def test_a_withdrawal_whose_mark_was_lost_with_redis_denies_all_the_same(site: Site, redis_: RedisServer) -> None:
    one, other = site.gateway(), site.gateway()
    site.feed()
    one.send("consent.given", consent(NUMBER))
    site.fresh()
    assert verdict(other) == ALLOW
    assert one.send("consent.withdrawn", consent(NUMBER)).status_code == 202
    redis_.restart(kill=True)  # it comes back without the mark, and the withdrawal is not folded
    give_up = time.monotonic() + 4
    while time.monotonic() < give_up:
        assert verdict(other)[0] == "deny"
        site_beat(site)
        time.sleep(0.1)


def site_beat(site: Site) -> None:
    """A worker whose beats speak of the time before the withdrawal: nothing is folded."""
    before = dict(site._read)
    site._read.update({at: 1 << 40 for at in [("consents", n) for n in range(4)]})
    site.fold(beat_ms=system_clock() - 2_000)
    site._read.clear()
    site._read.update(before)


def test_a_read_model_that_was_flushed_is_made_anew(site: Site, redis_: RedisServer) -> None:
    gateway = site.gateway()
    feed = site.feed()
    gateway.send("consent.given", consent(NUMBER))
    site.fresh()
    begun = feed.begun
    site.life().client.flushall()
    assert verdict(gateway)[0] == "deny"
    site.fresh()
    until(lambda: verdict(gateway) == ALLOW or site.fold())
    assert feed.begun > begun


def test_two_feeds_share_the_units_and_one_goes_on_alone(site: Site) -> None:
    gateway = site.gateway()
    one, other = site.feed(), site.feed()
    until(lambda: one.positions and other.positions and len(one.positions) + len(other.positions) == len(site.names.units))
    gateway.send("consent.given", consent(NUMBER))
    site.fresh()
    one.stop()
    until(lambda: len(other.positions) == len(site.names.units))
    gateway.send("consent.withdrawn", consent(NUMBER))
    site.fresh()
    until(lambda: verdict(gateway) == ("deny", ["consent_withdrawn"]))


def test_settings_of_a_controller_come_from_their_topic(site: Site) -> None:
    gateway = site.gateway()
    site.feed()
    local = "030 90182200"
    assert gateway.send("consent.given", consent(local)).status_code == 422
    site.worker.now_ms = system_clock()
    started = time.monotonic()
    settings = {"default_region": "DE", "own_identifiers": [], "employee_basis": "contract"}
    response = gateway.send("controller.configured", settings)
    assert response.status_code == 202 and time.monotonic() - started >= 1.9  # it waits for the settings, for a bounded time
    site.fold()
    until(lambda: gateway.service.settings("acme").default_region == "DE")
    assert gateway.send("consent.given", consent(local)).status_code == 202
    assert site.gateway().service.settings("acme").default_region == "DE"  # ready only when it knows them


def test_requests_are_listed_and_the_audit_log_verifies_from_the_gateway(site: Site) -> None:
    gateway = site.gateway()
    site.feed()
    body = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "web"}
    opened = gateway.root.post("/v1/requests", json={**body, "identifiers": [{"kind": "tel", "value": NUMBER}]})
    assert opened.status_code == 202, opened.text
    site.fresh()
    assert gateway.root.get(f"/v1/requests/{opened.json()['request_id']}").status_code == 200
    assert len(gateway.root.get("/v1/requests").json()["requests"]) == 1
    with beating(site):
        report = report_of(gateway.service)
        assert report.ok, report
        notes = gateway.service.checkpoint()
        assert len(notes) == len(gateway.service.notes()) > 0
        origin = sorted(gateway.service.notes())[0]
        assert proof_of(gateway.service, origin, 0).startswith("c2sp.org/tlog-proof")
    assert gateway.root.get("/v1/lag").status_code == 200
    assert gateway.root.post("/v1/admin/retention/raw").json()["type"].endswith("not-supported-yet")
    assert "consentinel_beat_age_seconds" in gateway.root.get("/metrics").text


def test_a_gateway_shows_links_and_candidates_and_forgets_them_with_the_person(site: Site) -> None:
    gateway = site.gateway()
    site.feed()
    one, other, third = ({"kind": "tel", "value": number} for number in NUMBERS[:3])
    parties = [{"party_id": str(n), "role": "customer", "identifiers": [who]} for n, who in enumerate((one, other))]
    gateway.send("call.started", {"conversation_id": "c1", "channel": "voice", "direction": "inbound", "parties": parties})
    gateway.send("identity.linked", {"a": one, "b": third, "source": "crm"})
    site.fresh()
    refs = [gateway.service.secrets.ref("acme", who["kind"], who["value"]) for who in (one, other, third)]
    shown = gateway.root.get(f"/v1/subjects/{refs[0]}").json()
    assert [row["subject_ref"] for row in shown["links"]] == [refs[2]]
    assert shown["candidates"] == [{"subject_ref": refs[1], "conversations": 1, "as_one_party": 0}]
    body = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "web", "verified_by": "desk"}
    assert gateway.root.post("/v1/requests", json={**body, "identifiers": [one]}).status_code == 202
    site.fresh()
    assert gateway.root.get(f"/v1/subjects/{refs[1]}").json()["candidates"] == []


@contextmanager
def beating(site: Site) -> Iterator[None]:
    """A worker that works meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.3):
            site.fold()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_without_kafka_nothing_is_answered_202_and_nothing_is_allowed(
    kafka_jars: None, redis_: RedisServer, tmp_path: Path
) -> None:
    with Broker() as broker:
        site = Site(broker.bootstrap, redis_.url, new_prefix(), tmp_path)
        try:
            gateway = site.gateway()
            site.feed()
            gateway.send("consent.given", consent(NUMBER))
            site.fresh()
            assert verdict(gateway) == ALLOW
            broker.pause()
            assert gateway.send("consent.given", consent(NUMBERS[1])).status_code == 503
            assert verdict(gateway)[0] == "deny"
            with pytest.raises((Unreachable, RuntimeFault)):
                list(gateway.service.topic("consents"))
            broker.resume()
            until(lambda: gateway.send("consent.given", consent(NUMBERS[1])).status_code == 202)
        finally:
            site.close()
