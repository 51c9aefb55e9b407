"""A rotation of keys loses nothing, leaves no old copy of use, and ends whatever is killed in between."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import rewrapping, rotating
from engine.keyring import RingUnavailable
from engine.layout import KEY
from engine.rotating import STEPS
from engine.rotation import NothingToRotate, RotationStatus
from engine.sealing import Erased, KeyForeign, Sealer, place_of
from engine.secrets import Secrets
from engine.service import Service
from schemas.codec import decode_as
from schemas.routed import Envelope
from schemas.topics import AuditEntry, ProtectedConversation, WrappedKey
from tests.harness import CUSTOMER, START_MS, call, party

ROOT = Path(__file__).resolve().parents[2]
REQUEST = {
    "request_id": "r1", "right": "erasure", "regime": "gdpr", "received_via": "web", "claims": {"name": "Ada Example"},
    "identifiers": [{"kind": "tel", "value": CUSTOMER}],
}  # fmt: skip
Kept = dict[tuple[str, str, str], WrappedKey]


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Site:
    """A service in a folder that can be killed and opened again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms, self.calls = folder, START_MS, 0
        self.open()

    def open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms)

    def kill(self) -> None:
        self.service.runtime.close()
        self.service.ring.close()

    def send(self, type_: str, data: dict[str, Any], id_: str, controller: str = "acme") -> None:
        envelope = Envelope(
            id=id_, source="test", type=type_, controller=controller, time_ms=self.now_ms, receipt_ms=self.now_ms,
            content_type="application/json", data=msgspec.json.encode(data),
        )  # fmt: skip
        self.service.publish([("calls" if type_.startswith("call.") else "requests", id_, envelope)])

    def call(self, controller: str = "acme") -> None:
        """One more call, of one of eighty customers."""
        self.calls += 1
        who = party("p", "customer", ("tel", f"+120255501{self.calls % 80 + 10}"), name="Ada Example")
        self.send("call.started", call(f"c{self.calls}", who), f"call{self.calls}", controller)

    def filled(self, calls: int = 25) -> "Site":
        for _ in range(calls):
            self.call()
        self.send("request.opened", REQUEST, "request")
        self.service.settle()
        self.now_ms += 60_000  # what was opened is published by then
        self.service.settle()
        return self

    def rotate(self) -> None:
        self.service.rotate_keys("acme", "an administrator")

    def seen(self) -> RotationStatus:
        found = self.service.keys("acme")[0].rotation
        assert found is not None
        return found

    def kept(self) -> Kept:
        """Every wrapped data key of every task, by (task, owner, scope)."""
        found: Kept = {}
        for task, n in self.service.rotations.owners:
            for key, value in self.service.runtime.scan(task, n, KEY):
                owner, scope = key[1:].decode().split("\0", 1)
                found[task, owner, scope] = decode_as(WrappedKey, value)
        return found

    def data_keys(self) -> dict[tuple[str, str, str], bytes | None]:
        """The data keys themselves; None: it opens no more."""
        return {at: opened(self.service.secrets, wrapped, *at[1:]) for at, wrapped in self.kept().items()}

    def names(self) -> dict[str, list[Any]]:
        """What the party's name opens to in every record of `conversations.protected`, old ones included."""
        found: dict[str, list[Any]] = {}
        for _, record in self.service.topic("conversations.protected"):
            if record.value is not None:
                ref, scope = msgspec.json.decode(record.key, type=tuple[str, str])
                sealed = decode_as(ProtectedConversation, record.value)
                assert sealed.name is not None
                text = self.service.open_field("acme", ref, scope, "name", sealed.name, "user.name")
                found.setdefault(scope, []).append(text)
        return found

    def audited(self) -> list[AuditEntry]:
        entries = (decode_as(AuditEntry, r.value) for _, r in self.service.topic("audit.entries") if r.value is not None)
        return [entry for entry in entries if entry.kind.startswith("keys.")]


def opened(secrets: Secrets, wrapped: WrappedKey, owner: str, scope: str) -> bytes | None:
    kek = secrets.ring.kek_at(wrapped.controller, wrapped.shard, wrapped.epoch)
    return None if kek is None else Sealer(kek).unwrap(wrapped.wrapped, place_of(wrapped.controller, owner, scope))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "data").filled()
    yield found
    found.kill()


def test_every_data_key_survives_a_rotation_and_every_old_copy_of_it_is_useless(site: Site, tmp_path: Path) -> None:
    before, names, copies = site.data_keys(), site.names(), site.kept()
    assert {task for task, _, _ in before} == {"subject", "case"} and None not in before.values()
    assert {text for texts in names.values() for text in texts} == {"Ada Example"}
    log = [decode_as(WrappedKey, r.value) for _, r in site.service.topic("keys.wrapped") if r.value is not None]
    site.kill()
    shutil.copytree(site.folder, tmp_path / "backup")
    site.open()

    site.rotate()
    site.service.settle()
    assert (site.seen().phase, site.seen().keys_rewrapped) == ("ended", len(before))
    assert site.data_keys() == before and site.names() == names
    assert {wrapped.epoch for wrapped in site.kept().values()} == {2}
    newest = {r.key: r.value for _, r in site.service.topic("keys.wrapped")}
    assert {decode_as(WrappedKey, value).epoch for value in newest.values() if value is not None} == {2}

    assert all(opened(site.service.secrets, wrapped, *at[1:]) is None for at, wrapped in copies.items())
    assert log and all(site.service.secrets.ring.kek_at("acme", w.shard, w.epoch) is None for w in log)
    alive = [Sealer(key) for _, key in site.service.ring.all_keys_alive()]
    (_, owner, scope), wrapped = next(iter(copies.items()))
    for sealer in alive:  # whatever key somebody tries that is left
        with pytest.raises(KeyForeign):
            sealer.unwrap(wrapped.wrapped, place_of("acme", owner, scope))

    backup = Site.__new__(Site)
    backup.service = Service.open(tmp_path / "backup", ring=site.folder.with_name("data.ring"), clock=lambda: site.now_ms)
    assert {type(text) for texts in backup.names().values() for text in texts} == {Erased}
    backup.kill()


def test_a_rotation_is_audited_with_counts_and_names_nobody(site: Site) -> None:
    site.rotate()
    site.service.settle()
    began, destroyed = site.audited()
    assert (began.kind, began.controller, began.subject, began.facts["epoch"]) == ("keys.rotation_began", "acme", "", "2")
    assert began.facts["by"].startswith("act_")
    assert destroyed.kind == "keys.epochs_destroyed"
    assert destroyed.facts == {"before_epoch": "2", "epochs": "4096", "keys_rewrapped": str(len(site.kept()))}


@pytest.mark.parametrize("moment", ["first", "later"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_ends_in_a_completed_rotation(site: Site, step: int, moment: str) -> None:
    before, left = site.data_keys(), 1 if moment == "first" else {3: 300, 5: 5, 6: 5, 7: 5, 9: 300}.get(step, 1)

    def fail(reached: int) -> None:
        nonlocal left
        left -= reached == step
        if reached == step and not left:
            raise Killed

    site.rotate()
    if step == 1:
        site.kill()
        site.open()
    else:
        site.service._rotation.step = fail
        with pytest.raises(Killed):
            site.service.settle()
        site.kill()
        site.open()
        site.call()  # life goes on
    site.service.settle()
    seen = site.seen()
    assert (seen.phase, seen.owners_acknowledged, seen.epochs_destroyed) == ("ended", 8, 4096)
    after = site.data_keys()
    assert {at: after[at] for at in before} == before and None not in after.values()
    assert [entry.kind for entry in site.audited()] == ["keys.rotation_began", "keys.epochs_destroyed"]
    assert site.service.keys("acme")[0].epochs_living == 4096


PROGRAM = """
import os, sys
from pathlib import Path
from engine.service import Service
service = Service.open(Path(sys.argv[1]))
left = int(sys.argv[3])
def step(reached):
    global left
    left -= reached == int(sys.argv[2])
    if not left:
        os.kill(os.getpid(), 9)
service._rotation.step = step
service.settle()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("step", "times"), [(3, 700), (6, 3), (7, 3), (9, 700), (11, 1)])
def test_a_killed_process_leaves_a_rotation_that_the_next_one_ends(site: Site, step: int, times: int) -> None:
    before = site.data_keys()
    site.rotate()
    site.kill()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(site.folder), str(step), str(times)], env=environment, check=False)
    site.open()
    assert done.returncode == -signal.SIGKILL and site.seen().phase != "ended"
    site.service.settle()
    assert site.seen().phase == "ended" and site.data_keys() == before


def test_what_is_minted_while_a_rotation_goes_on_survives_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrapping, "KEYS_PER_STEP_MAX", 3)
    site.rotate()
    phases: dict[str, dict[Any, Any]] = {}
    for _ in range(1_000):
        site.call()
        site.service.turn()
        phases.setdefault(site.seen().phase, site.data_keys())
        if site.seen().phase == "ended":
            break
    site.service.settle()
    assert set(phases) == {"stopping", "rewrapping", "destroying", "ended"}
    assert len(phases["stopping"]) < len(phases["rewrapping"]) < len(phases["destroying"]) < len(site.data_keys())
    after = site.data_keys()
    for kept in phases.values():
        assert {at: after[at] for at in kept} == kept and None not in kept.values()
    assert {wrapped.epoch for wrapped in site.kept().values()} == {2}
    site.now_ms += 60_000
    site.service.settle()
    assert set(site.names()) == {f"c{n}" for n in range(1, site.calls + 1)}
    assert not [texts for texts in site.names().values() if any(isinstance(text, Erased) for text in texts)]


def test_a_step_is_bounded_and_status_tells_how_far_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrapping, "KEYS_PER_STEP_MAX", 4)
    keys = len(site.kept())
    site.rotate()
    old, seen = [keys], []
    while not seen or seen[-1].phase != "ended":
        site.now_ms += rotating.PACE_MS
        site.service.turn()
        seen.append(site.seen())
        old.append(sum(wrapped.epoch == 1 for wrapped in site.kept().values()))
    assert max(a - b for a, b in pairwise(old)) == 4 and old[-1] == 0
    ends = {"shards_rotated": 4096, "keys_rewrapped": keys, "owners_acknowledged": 8, "epochs_destroyed": 4096}
    for name, last in ends.items():
        course = [getattr(one, name) for one in seen]
        assert course == sorted(course) and course[-1] == last and len(set(course)) > 3, name
    assert seen[0].waits_for == ["subject/0", "subject/1", "subject/2", "subject/3", "case/0", "case/1", "case/2", "case/3"]
    assert seen[-1].waits_for == []
    destroyed_early = [one for one in seen if one.epochs_destroyed and one.owners_acknowledged < 8]
    assert not destroyed_early


def test_beginning_again_resumes_and_another_rotation_follows_the_first(site: Site) -> None:
    site.rotate()
    first = site.seen()
    site.now_ms += 1
    site.rotate()
    assert site.seen() == first
    site.service.settle()
    before = site.data_keys()
    site.rotate()
    site.service.settle()
    assert (site.seen().epoch, site.seen().phase, site.seen().keys_rewrapped) == (3, "ended", len(before))
    assert site.data_keys() == before
    with pytest.raises(NothingToRotate):
        site.service.rotate_keys("nobody", "me")
    assert "nobody" not in site.service.ring.controllers()


def test_another_controllers_keys_stay_as_they_are_and_rotate_at_the_same_time(site: Site) -> None:
    for _ in range(5):
        site.call("rival")
    site.service.settle()
    mine = {at: w for at, w in site.kept().items() if w.controller == "rival"}
    site.rotate()
    site.service.settle()
    assert mine and {at: site.kept()[at] for at in mine} == mine
    site.rotate()
    site.service.rotate_keys("rival", "me")
    before = site.data_keys()
    site.service.settle()
    assert [status.rotation and status.rotation.phase for status in site.service.keys()] == ["ended", "ended"]
    assert site.data_keys() == before


def test_a_ring_that_is_away_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before, put, failures = site.data_keys(), site.service.ring.put_note, 7

    def away(*given: Any) -> bool:
        nonlocal failures
        failures -= 1
        if failures >= 0 and failures % 2:
            raise RingUnavailable
        return put(*given)

    site.rotate()
    monkeypatch.setattr(site.service.ring, "put_note", away)
    for _ in range(20):
        site.service.settle()
        site.now_ms += rotating.LOOK_MS
    assert failures < 0 and site.service.shared.counts["rotation_waits",] == 3
    assert site.seen().phase == "ended" and site.data_keys() == before


def test_a_key_that_was_broken_before_is_counted_and_stops_nothing(site: Site) -> None:
    (task, owner, scope), _ = next(iter(site.kept().items()))
    partition = site.service.home(task, owner)
    with site.service.runtime.store.transaction() as writer:
        place = site.service.runtime._readers[task].place(partition)
        site.service.runtime.store.write_state(writer, place, {f"k{owner}\0{scope}".encode(): b"broken"})
    site.rotate()
    site.service.settle()
    assert (site.seen().phase, site.seen().keys_broken) == ("ended", 1)


def test_a_backup_that_comes_back_while_others_are_waited_for_is_rewrapped_again(site: Site, tmp_path: Path) -> None:
    before = site.data_keys()
    site.kill()
    shutil.copytree(site.folder, tmp_path / "backup")
    site.open()
    site.rotate()
    site.service._rotation._behind_ms = 10**9
    site.service.settle()
    assert (site.seen().phase, site.seen().owners_acknowledged) == ("rewrapping", 8)
    site.kill()
    site.folder.rename(tmp_path / "lost")
    (tmp_path / "backup").rename(site.folder)
    site.open()
    assert {wrapped.epoch for wrapped in site.kept().values()} == {1}
    site.service.settle()
    assert site.seen().phase == "ended" and site.data_keys() == before
