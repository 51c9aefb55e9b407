"""A receipt tells what is unreadable and what is gone apart: gone is said only when the bytes are in no file any more."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from connectors.http.receipts import status_in
from engine.evidence import receipt_of
from engine.layout import KEY, REMOVAL
from engine.receipt_summary import moment
from engine.receipts import Receipt, ReceiptInvalid, check_receipt, make_receipt
from engine.removing import Removals
from engine.service import MAINTENANCE_SECS, WIPE_SECS, Limits, Service
from tests.endtoend.world import Told, envelope, request, topic_of
from tests.harness import CUSTOMER, OTHER, START_MS, Deployment, call, party

DAY_MS = 86_400_000
ROUNDS_MS = round(2_000 * (MAINTENANCE_SECS + WIPE_SECS))


class Site:
    """A service in a folder, with one call of two customers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms = folder / "data", START_MS
        self.open()
        people = (party(f"p{n}", "customer", ("tel", tel), name="Ada Example") for n, tel in enumerate((CUSTOMER, OTHER)))
        self.tell(Told("call.started", "s1", self.now_ms, call("c1", *people)))
        lines = [{"party_id": "p0", "text": f"words {n}"} for n in range(300)]  # more than one sweep
        self.tell(Told("call.transcribed", "t1", self.now_ms, {"conversation_id": "c1", "segments": lines}))
        self.wait(600_000)

    def open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=1))

    def tell(self, told: Told) -> None:
        self.service.publish([(topic_of(told.type), told.id, envelope(told, self.now_ms))])
        self.service.settle()

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.service.settle()

    def erase(self, request_id: str = "r1") -> None:
        for told in request(request_id, self.now_ms, ("tel", CUSTOMER)):
            self.tell(told)
        self.wait(5_000)

    def clean(self) -> None:
        self.service.maintain()
        self.wait(5_000)

    def rotate(self) -> None:
        self.wait(5_000)
        self.service.rotate_keys("acme", "somebody")
        self.wait(5_000)

    def receipt(self, request_id: str = "r1") -> Receipt:
        """As somebody sees it who has nothing but the file and the key."""
        status = status_in(self.service, request_id)
        assert status is not None
        made = receipt_of(self.service, status)
        found = check_receipt(made.text().encode(), self.service.signer.vkey)
        assert found == made
        return found

    def files_with(self, *texts: bytes) -> int:
        data = [path.read_bytes() for path in self.folder.iterdir() if path.is_file()]
        return sum(text in file for text in texts for file in data)

    def owed(self) -> int:
        runtime, tasks = self.service.runtime, self.service.topology.tasks.items()
        return sum(len(list(runtime.scan(name, n, REMOVAL))) for name, task in tasks for n in range(task.partitions))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.service.stop()


def test_gone_is_said_when_the_bytes_are_in_no_file_and_not_before(site: Site) -> None:
    ref = site.service.secrets.ref("acme", "tel", CUSTOMER)
    home = site.service.home("subject", ref)
    (wrapped,) = (value for key, value in site.service.runtime.scan("subject", home, KEY) if ref.encode() in key)
    told = [r.value for _, r in site.service.topic("conversations.protected") if r.value is not None and ref.encode() in r.key]
    sealed = [value[-64:] for value in told]
    assert site.files_with(wrapped[-32:]) and site.files_with(*sealed)
    site.erase()
    lines = site.receipt().summary
    assert (lines.complete, lines.gone.keys, lines.gone.removed) == (True, 2, {}), "unreadable at once, gone later"
    assert site.files_with(wrapped[-32:]), "the bytes are still there"
    site.clean()
    assert (site.files_with(wrapped[-32:]), site.files_with(*sealed), site.owed()) == (0, 0, 0)
    gone = site.receipt().summary.gone
    assert gone.keys_ms is not None and gone.removed == {"store": (2, site.now_ms)} and gone.removed["store"][1] > gone.keys_ms
    site.clean()
    assert site.receipt().summary.gone == gone, "it is said once"


def test_what_only_configuration_bounds_is_told_as_a_date_per_place(site: Site) -> None:
    site.erase()
    at_ms = next(e.at_ms for e in site.receipt().entries if e.kind == "removal.bound")
    rests = {"topics.raw": 1_000, "tombstones": DAY_MS, "quarantine": 30 * DAY_MS, "erasure.notices": 400 * DAY_MS,
             "media.orders": 400 * DAY_MS}  # fmt: skip
    bounds = site.receipt().summary.gone.bounds
    assert bounds == {place: moment(at_ms + ms + ROUNDS_MS) for place, ms in rests.items()}
    assert f"bound topics.raw {bounds['topics.raw']}" in site.receipt().text().split("\n")


def test_a_crash_before_the_files_are_clean_loses_no_entry_and_claims_none(site: Site) -> None:
    site.erase()
    site.service.runtime.close()
    site.service.ring.close()
    site.open()
    site.wait(5_000)
    assert site.owed() == 2 and not site.receipt().summary.gone.removed
    site.service.maintain(wipe=False)
    site.wait(5_000)
    assert site.owed() == 2, "nothing was overwritten yet"
    site.clean()
    assert site.owed() == 0 and site.receipt().summary.gone.removed["store"][0] == 2


def test_the_end_of_the_old_keys_is_in_the_receipt_of_what_was_closed_before_it_began(site: Site) -> None:
    site.rotate()
    site.erase()
    assert site.receipt().summary.gone.epochs_ms is None, "a rotation of before says nothing of these keys"
    site.rotate()
    first = site.receipt()
    assert first.summary.gone.epochs_ms == site.now_ms
    assert [h.kind for h in first.summary.rotation] == ["keys.rotation_began", "keys.epochs_destroyed"]
    assert first.text().split("\nrotation\n")[1].startswith("  2026-")
    site.rotate()
    assert site.receipt().summary.rotation == first.summary.rotation, "the first that covers it is enough"


def test_a_rotation_that_does_not_cover_the_request_makes_no_receipt(site: Site) -> None:
    site.erase()
    site.rotate()
    good = site.receipt()
    for cut in ("keys.rotation_began", "keys.epochs_destroyed", "removal.bound"):
        kinds = iter([entry.kind for entry in good.entries])
        sections = [
            msgspec.structs.replace(section, entries=tuple(p for p in section.entries if next(kinds) != cut))
            for section in good.sections
        ]
        with pytest.raises(ReceiptInvalid) as fault:
            make_receipt("r1", "acme", good.made_ms, good.stated, [s for s in sections if s.entries], site.service.signer)
        assert fault.value.code == "entry_foreign"


def test_an_answer_counts_only_for_what_was_asked_before_and_for_the_ownership_of_then(site: Site) -> None:
    removals = site.service.removals
    assert isinstance(removals, Removals)
    early = removals.take()
    site.erase()
    late = removals.take()
    assert not early and len(late) == 2
    removals.done(early, late)
    removals.adopted()
    removals.done(late)
    site.wait(5_000)
    assert site.owed() == 2 and len(removals.take()) == 2
    removals.done(late)
    site.wait(5_000)
    assert site.owed() == 2, "it was asked anew since"
    removals.done(removals.take(), list(late)[:1])
    site.wait(5_000)
    assert site.owed() == 1


def test_it_is_not_asked_for_while_something_is_still_deleted_in_steps(tmp_path: Path) -> None:
    world = Deployment(tmp_path)
    removals = Removals(world.runtime)
    world.loop.upkeep.append(removals)
    world.publish("call.started", call("c1", party("p0", "customer", ("tel", CUSTOMER))))
    lines = [{"party_id": "p0", "text": f"words {n}"} for n in range(900)]
    world.publish("call.transcribed", {"conversation_id": "c1", "segments": lines})
    for told in request("r1", world.now_ms, ("tel", CUSTOMER)):
        world.publish(told.type, told.data, id_=told.id, settle=False)
    seen = []
    for _ in range(200):
        world.now_ms += 2_000
        world.loop.turn()
        swept = not any(b"\0line\0" in key for key, _ in _subject_state(world))
        asked = [owner for owner in removals.take() if owner[0] == "subject"]
        seen.append(swept)
        assert swept or not asked
        if asked:
            break
    assert asked and False in seen, "the sweep took more than one turn"
    world.close()


def _subject_state(world: Deployment) -> Iterator[tuple[bytes, bytes]]:
    for n in range(world.topology.tasks["subject"].partitions):
        yield from world.runtime.scan("subject", n, b"s")
