"""Forgetting holds against all that can be opened: no key that lives and no byte that rests gives a forgotten person back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from connectors.vcon import VconRefused, map_vcon
from engine.audit import verify_log
from engine.checkpoints import frontiers, latest_notes
from engine.service import Limits, Service
from schemas.codec import decode, decode_as
from schemas.routed import Envelope
from schemas.topics import AuditEntry, WrappedKey
from tests.endtoend.corpus import GIVEN, Corpus, Person, corpus, given, made, needles_of, texts_of
from tests.endtoend.world import Told, codes, envelope, latest, records, request, request_states, state, topic_of, views
from tests.harness import START_MS
from tests.scan import Needles, Report, chunks_of_folder, look, scan

SEED = 20260225
CONTROLLER = "acme"
REST_MS = 10 * 60_000
SEEN_MS = 9 * 86_400_000  # longer than an event's id is remembered
NULLS_IN = ("conversations.protected", "keys.wrapped", "consent.state", "suppression.state", "controllers")


class World:
    """A stopped service under a clock of the test, and the vCons it was told."""

    def __init__(self, folder: Path, told: Corpus) -> None:
        self.now_ms = START_MS
        self.folder, self.told = folder, told
        self.doomed: frozenset[bytes] = frozenset()  # commitments of the data keys that an erasure must destroy
        self.consenting: list[tuple[str, str]] = []  # identifiers that give their consent with each telling
        self.open()

    def open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=1))

    def close(self) -> None:
        self.service.stop()

    def settle(self, ms: int = REST_MS) -> None:
        self.service.settle()
        self.now_ms += ms
        self.service.settle()

    def publish(self) -> list[str]:
        """Tell every document; returns the refusals' codes."""
        refused = []
        for n in range(len(self.told.documents)):
            try:
                events = map_vcon(self.told.bytes_of(n))
            except VconRefused as e:
                refused.append(e.code)
                continue
            self.service.publish([(topic_of(e.type), e.id, self._wrapped(e)) for e in events])
        for n, (kind, value) in enumerate(self.consenting):
            proof = {"agent": f"witness number {n}", "uri": f"https://proof.example.com/consent/{n}"}
            data = {
                "identifiers": [{"kind": kind, "value": value}],
                "purposes": ["marketing"],
                "method": "web",
                "evidence": proof,
            }
            given = Told("consent.given", f"consent/{n}", START_MS - 1_000, data)
            self.service.publish([("consents", given.id, envelope(given, self.now_ms, CONTROLLER))])
        self.settle()
        return refused

    def _wrapped(self, e: Any) -> Envelope:
        return Envelope(
            id=e.id, source=e.source, type=e.type, controller=CONTROLLER, time_ms=round(e.time.timestamp() * 1000),
            receipt_ms=self.now_ms, actor="vcon", content_type="application/json", data=e.data,
        )  # fmt: skip

    def forget(self, people: list[Person]) -> None:
        """Ask for the erasure of each, half by number and half by address."""
        for n, who in enumerate(people):
            steps = request(f"r{n}", self.now_ms, _asks_by(n, who))
            self.service.publish([(topic_of(t.type), f"r{n}", envelope(t, self.now_ms, CONTROLLER)) for t in steps])
        self.settle()

    def end_raw(self) -> None:
        """End the retention of everything raw, and let maintenance run."""
        self.now_ms += 5_000
        self.service.retain_raw(at_once=True)
        self.service.maintain()
        self.service.retain_raw(at_once=True)

    def copy(self, name: str) -> Path:
        """A copy of the data folder, made by another process: reading SQLite's files in this one would drop its locks."""
        copy = self.folder.with_name(name)
        subprocess.run(["cp", "-r", str(self.folder), str(copy)], check=True)
        return copy

    def scan(self, needles: list[str], name: str) -> Report:
        return scan(needles, self.service.ring, self.copy(name), self.service)


def _asks_by(n: int, who: Person) -> tuple[str, str]:
    return ("tel", who.tel) if n % 2 else ("email", who.email)


def chosen(told: Corpus, count: int) -> tuple[list[Person], list[list[str]]]:
    """Whom to forget, and what must be gone of each."""
    people = Random(SEED).sample(told.people, count)
    gone = {n for who in people for n in who.calls}
    kept = [told.bytes_of(n).lower() for n in range(len(told.documents)) if n not in gone]
    return people, [needles_of(who, told, kept) for who in people]


@pytest.fixture(params=["made", pytest.param("given", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    documents = made() if request.param == "made" else given()
    if not documents:
        pytest.skip(f"NOT RUN: {GIVEN} is not there")
    print(f"seed {SEED}, {len(documents)} conversations")
    world = World(tmp_path / "data", corpus(documents))
    yield world
    world.close()


def test_a_forgotten_person_is_nowhere_and_stays_away(world: World) -> None:
    clock = time.perf_counter()

    def took(step: str) -> None:
        print(f"{time.perf_counter() - clock:6.1f} s {step}")

    people, needles = chosen(world.told, 30 if len(world.told.documents) >= 300 else 8)
    world.consenting = [_asks_by(n, who) for n, who in enumerate(people)]
    for n, few in enumerate(needles):
        few += [f'https://proof.example.com/consent/{n}"', f'witness number {n}"']
    refused = world.publish()
    took("published")
    assert refused == [], "every document is accepted"
    assert codes(world.service) == [], "nothing that was accepted was quarantined"
    rows = views(world.service)
    assert {name for _, name in rows} == {document["uuid"] for document in world.told.documents}

    assert len(latest(world.service, "consent.state")) == len(people)
    gone = {world.told.documents[n]["uuid"] for who in people for n in who.calls}
    flat = sorted({needle for few in needles for needle in few})
    print(f"{len(people)} people, {len(flat)} needles, {len(gone)} conversations")
    assert all(len(few) >= 5 for few in needles), "number, address, proof and words of each"
    control = world.scan(flat, "before")
    took(f"control: {control.opened} opened, {len(control.keys)} data keys, {control.octets >> 20} MiB")
    assert sorted(set(flat) - set(control.found)) == [], "before the erasure each needle is found"
    world.doomed = keys_of(world.service, people, gone)
    assert len(world.doomed) == len(gone) + len(people), "a key for each conversation and each proof of consent"
    assert world.doomed <= control.keys & control.sealed_under

    world.forget(people)
    took("erased")
    assert set(request_states(world.service).values()) == {"fulfilled"}
    assert len(request_states(world.service)) == len(people)
    world.end_raw()
    took("raw retention and maintenance")
    nowhere(world, flat, "after")
    took("scanned")
    unchanged(world, rows, gone)
    every_null_is_explained(world, 2 * len(gone))  # an item and its key each

    assert world.publish() == []
    world.settle()
    world.end_raw()
    nowhere(world, flat, "again")
    unchanged(world, rows, gone)
    took("published again and scanned")

    world.settle(SEEN_MS)
    assert world.publish() == []
    world.settle()
    world.end_raw()
    nowhere(world, flat, "late")
    unchanged(world, rows, gone)
    every_null_is_explained(world, 0)  # a tombstone goes a day after its record
    took("published once more, when the events' ids were forgotten, and scanned")

    world.close()
    world.open()
    unchanged(world, rows, gone)
    nowhere(world, flat, "reopened")
    took("opened again and scanned")


def test_everything_rests_sealed(world: World) -> None:
    assert world.publish() == []
    words = {text for document in world.told.documents for _, text in texts_of(document) if len(text) >= 20}
    words |= {value for document in world.told.documents for p in document["parties"]
              for value in (p.get("tel"), p.get("mailto"), p.get("name")) if value and len(value) >= 6}  # fmt: skip
    report = look(Needles(sorted(words)), {}, list(chunks_of_folder(world.copy("resting"))))
    assert report.found == {}, "no word, name, number or address stands in the folder"
    assert report.opened == {1: 0, 2: 0, 3: 0}


def test_destroyed_keys_are_not_in_the_rings_bytes(world: World) -> None:
    world.publish()
    before = dict(world.service.ring.all_keys_alive())
    world.end_raw()
    after = dict(world.service.ring.all_keys_alive())
    destroyed = {what: key for what, key in before.items() if what not in after}
    assert any(what.startswith("raw/") for what in destroyed)
    copy = world.folder.with_name("ring.copy")
    ring = world.folder.with_name(world.folder.name + ".ring")
    subprocess.run(["cp", str(ring), str(copy)], check=True)
    left = [what for what, key in destroyed.items() if key in copy.read_bytes()]
    assert left == []


def keys_of(service: Service, people: list[Person], gone: set[str]) -> frozenset[bytes]:
    """Commitments of the data keys of people, except those of their agents' participation."""
    agents = {owner for (owner, _), view in views(service).items() if view["role"] == "agent"}
    asked = {
        service.secrets.ref(CONTROLLER, kind, value.lower()) for kind, value in (_asks_by(n, p) for n, p in enumerate(people))
    }
    found = set()
    for key, value in state(service, "subject"):
        if key[:1] == b"k":
            owner, _, scope = key[1:].decode().partition("\0")
            if owner not in agents and (owner in asked or scope in gone):
                unwrapped = service.secrets.unwrap(decode_as(WrappedKey, value), owner, scope)
                assert unwrapped is not None
                found.add(unwrapped.sealer._commitment)
    return frozenset(found)


def nowhere(world: World, needles: list[str], name: str) -> None:
    report = world.scan(needles, name)
    found = report.found
    places = sorted({where for wheres in found.values() for where in wheres})
    assert len(found) == 0, f"{len(found)} of {len(needles)} needles are left: {places}"
    # Two layers, each by itself: what is erased could not be opened if it were there, and is not there.
    assert not world.doomed & report.keys, "a shredded key can still be had"
    assert not world.doomed & report.sealed_under, "something sealed under a shredded key is still there"


def unchanged(world: World, before: dict[tuple[str, str], dict[str, Any]], gone: set[str]) -> None:
    """Everyone else's view, the agents' participation included, is what it was; the forgotten have no consent."""
    assert latest(world.service, "consent.state") == {}
    now = views(world.service)
    kept = {at: view for at, view in before.items() if at[1] not in gone}
    assert sorted(set(kept) - set(now)) == []
    assert [at for at in kept if kept[at] != now[at]] == []
    assert all(view["role"] == "agent" for at, view in now.items() if at not in kept), (
        "of the forgotten calls only the agents are left"
    )
    agents = {at for at, view in before.items() if at[1] in gone and view["role"] == "agent"}
    assert set(now) == set(kept) | agents
    assert [at for at in agents if now[at] != before[at]] == []


def every_null_is_explained(world: World, nulls_min: int) -> None:
    """Each tombstone names an audit entry that exists, and the audit log is what was signed."""
    service = world.service
    entries: dict[str, AuditEntry] = {}
    lines = []
    for partition, record in records(service, "audit.entries"):
        entry = decode(record.value)
        assert isinstance(entry, AuditEntry)
        entries[f"{entry.origin}#{entry.index}"] = entry
        lines.append((partition, record.offset, record.value))
    nulls = [(topic, record) for topic in NULLS_IN for _, record in records(service, topic) if record.value is None]
    assert len(nulls) >= nulls_min
    for topic, record in nulls:
        named = dict(record.headers).get("audit", b"").decode()
        assert named in entries, f"a null on {topic} names no audit entry"
        if topic in ("conversations.protected", "keys.wrapped"):
            assert entries[named].kind in ("item.destroyed", "key.shredded"), f"a null on {topic} names a {entries[named].kind}"
    service.checkpoint()
    held = {
        origin: (f.size, f.root())
        for origin, f in frontiers(service.runtime, service.loop.tasks, service.shared.deployment).items()
    }
    report = verify_log(lines, latest_notes(service.runtime).values(), service.signer.vkey, held)
    assert report.ok, report.findings
    assert report.entries == len(entries)
