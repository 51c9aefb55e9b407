"""What the task loop promises to any processor, shown with processors made for it."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from engine.context import TaskPlan
from engine.filering import FileRing
from engine.layout import data_key, state_key, state_prefix
from engine.loop import PIPELINE_TURNS, RECORDS_PER_TASK_MAX
from engine.overlay import Overlay
from engine.partition import FAULT_WAIT_MS
from engine.runtime import Output
from engine.sealing import TokenForeign, raw_key_id
from processors.admit_event import AdmitEvent
from processors.kernel import Alarm, Audit, Delete, Effect, Emit, Incurious, Mint, Nonce, Put, Refuse, Sealed, Shred, State, Wake
from schemas.base import Record
from schemas.codec import unpacked
from schemas.decode import decode_event
from schemas.events import ConsentChanged
from schemas.routed import Envelope
from schemas.topics import ProtectedConversation
from tests.harness import CUSTOMER, Deployment

CONSENT = {"identifiers": [{"kind": "tel", "value": CUSTOMER}], "purposes": ["service"], "method": "web"}


class Note(State):
    KIND: ClassVar[str] = "note"
    SEALED: ClassVar[dict[str, str]] = {"text": "lines.text"}
    SEALED_IN: ClassVar[type[Record] | None] = ProtectedConversation
    count: int
    text: Sealed = None


class Scripted(Incurious):
    """Yields what the test says, for every consent event and alarm."""

    READS: ClassVar[tuple[type[Record], ...]] = (ConsentChanged,)
    STATE: ClassVar[tuple[type[State], ...]] = (Note,)

    def __init__(
        self, name: str, fold: Callable[..., Iterator[Effect]], wake: Callable[..., Iterator[Effect]] | None = None
    ) -> None:
        self.name, self.fold = name, fold
        self.wake = wake or fold


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[FileRing]:
    found = FileRing(tmp_path / "test.ring", create=True)
    yield found
    found.close()


def deployment(folder: Path, ring: FileRing, *scripted: Scripted) -> Deployment:
    """A deployment whose subject task runs these processors instead of the real ones."""
    made = Deployment(folder, ring=ring)
    real = {t.name: t for t in made.loop.tasks}
    subject = TaskPlan("subject", {p.name: p for p in scripted}, {ConsentChanged: scripted}, "keys.wrapped", ("subject.events",))
    made.loop.tasks = [real["intake"], subject]
    return made


def notes(made: Deployment) -> list[int]:
    owner = made.ref(CUSTOMER)
    partition = made.runtime
    found = [v for n in range(4) for _, v in partition.scan("subject", n, state_prefix(owner) + b"note")]
    return [value[1] for value in found]  # the count of an array-like record of msgpack


def codes(made: Deployment) -> list[str]:
    return [v.code for _, v in made.rows("quarantine")]  # type: ignore[union-attr]


def test_a_processor_that_fails_leaves_nothing_and_the_others_go_on(tmp_path: Path, ring: FileRing) -> None:
    def bad(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        yield Put(Note(1))
        yield Audit("half.done", "acme")
        yield Emit("consent.state", ("x",), None)
        yield Wake("later", at.receipt_ms)
        raise ValueError(CUSTOMER)

    def good(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        yield Audit("whole.done", "acme")

    made = deployment(tmp_path, ring, Scripted("bad", bad), Scripted("good", good))
    made.publish("consent.given", CONSENT)
    assert codes(made) == ["processor-fault"]
    assert notes(made) == [] and made.audit("half.done") == [] and list(made.rows("consent.state")) == []
    assert len(made.audit("whole.done")) == 1
    assert made.shared.counts["processor_faults", "bad"] == 1
    made.publish("consent.given", CONSENT)
    assert len(made.audit("whole.done")) == 2


def test_a_bug_report_holds_no_value(tmp_path: Path, ring: FileRing, caplog: pytest.LogCaptureFixture) -> None:
    def bad(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        yield Audit("half.done", "acme")
        raise ValueError(f"cannot use {event.identifiers[0].value}")

    deployment(tmp_path, ring, Scripted("bad", bad)).publish("consent.given", CONSENT)
    assert "bad" in caplog.text and CUSTOMER not in caplog.text


@pytest.mark.parametrize(
    ("effects", "why"),
    [
        ([Emit("consent.state", ("x",), None)], "a tombstone needs an audit entry"),
        ([Put(Note(1, "words"))], "a sealed field needs a scope"),
        ([Put(Note(1, "words"), (), "c1")], "sealing needs a minted key"),
        ([Audit("done", "acme"), Refuse("no")], "a refusal is a fold's only effect"),
    ],
)
def test_what_a_processor_may_not_do_is_a_fault(tmp_path: Path, ring: FileRing, effects: list[Effect], why: str) -> None:
    made = deployment(tmp_path, ring, Scripted("bad", lambda *_: iter(effects)))
    made.publish("consent.given", CONSENT)
    assert codes(made) == ["processor-fault"], why
    assert notes(made) == [] and made.audit("done") == []


def test_a_processor_sees_what_it_put_with_sealed_fields_sealed(tmp_path: Path, ring: FileRing) -> None:
    seen: list[Any] = []

    def fold(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        yield Mint("c1", "acme")
        yield Put(Note(7, "words"), ("a",), "c1")
        seen.append(view.get(Note, "a"))
        seen.append(view.opened(seen[0], "c1"))
        seen.append([parts for parts, _ in view.scan(Note)])
        yield Delete(Note, ("a",))
        seen.append(view.get(Note, "a"))
        yield Shred("c1")
        seen.append(view.has_key("c1"))

    deployment(tmp_path, ring, Scripted("keeper", fold)).publish("consent.given", CONSENT)
    record, opened, scanned, gone, key = seen
    assert isinstance(record.text, bytes) and b"words" not in record.text
    assert opened.text == "words"
    assert (scanned, gone, key) == ([("a",)], None, False)


def test_an_alarm_rings_once_at_its_time_may_be_moved_and_silenced(tmp_path: Path, ring: FileRing) -> None:
    rang: list[tuple[str, int]] = []

    def fold(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        yield Wake("kept", at.receipt_ms + 1_000)
        yield Wake("moved", at.receipt_ms + 1_000)
        yield Wake("moved", at.receipt_ms + 5_000)
        yield Wake("silenced", at.receipt_ms + 1_000)
        yield Wake("silenced", None)

    def wake(view: Any, alarm: Alarm, now: Any) -> Iterator[Effect]:
        rang.append((alarm.name, now.now_ms - start))
        yield Audit("rang", now.controller)

    made = deployment(tmp_path, ring, Scripted("timer", fold, wake))
    start = made.now_ms
    made.publish("consent.given", CONSENT)
    made.settle(999)
    assert rang == []
    made.settle(1)
    made.settle(10_000)
    made.settle(10_000)
    assert rang == [("kept", 1_000), ("moved", 11_000)]
    assert [e.controller for e in made.audit("rang")] == ["acme", "acme"], "an alarm knows whose it is"


def test_one_processor_may_silence_anothers_alarm(tmp_path: Path, ring: FileRing) -> None:
    rang: list[str] = []

    def wake(view: Any, alarm: Alarm, now: Any) -> Iterator[Effect]:
        rang.append(alarm.name)
        yield from ()

    sets = Scripted("sets", lambda v, e, at: iter([Wake("a", at.receipt_ms + 5), Wake("b", at.receipt_ms + 5)]), wake)
    silences = Scripted("silences", lambda v, e, at: iter([Wake("a", None, of="sets")]), wake)
    made = deployment(tmp_path, ring, sets, silences)
    made.publish("consent.given", CONSENT)
    made.settle(10)
    assert rang == ["b"]


def test_a_commit_that_is_lost_is_done_again_once(tmp_path: Path, ring: FileRing) -> None:
    def fold(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        old = view.get(Note)
        yield Put(Note(old.count + 1 if old else 1))
        yield Audit("counted", "acme")
        yield Wake("soon", at.receipt_ms)

    def wake(view: Any, alarm: Alarm, now: Any) -> Iterator[Effect]:
        yield Audit("rang", now.controller)

    made = deployment(tmp_path, ring, Scripted("counter", fold, wake))
    for n in range(6):
        made.publish("consent.given", CONSENT, settle=False)
        for _ in range(n + 1):
            made.runtime.fail_next_commit()
            made.loop.turn()
    made.settle()
    assert notes(made) == [6]
    assert len(made.audit("counted")) == 6
    assert made.shared.counts["commits_lost",] >= 6
    origin = made.audit("counted")[0].origin
    indices = [entry.index for key, entry in made.rows("audit.entries") if key == origin]  # type: ignore[union-attr]
    assert indices == list(range(len(indices)))


@pytest.mark.parametrize("name", ["EraseOrder", "Hold", "PartyDropped", "ItemErase", "alarm", "no.such.type"])
def test_nobody_outside_can_speak_as_a_task(tmp_path: Path, ring: FileRing, name: str) -> None:
    made = Deployment(tmp_path, ring=ring)
    made.publish(name, {"request_id": "r1", "index": 0})
    assert codes(made) == ["unknown-type"]


def test_a_record_that_cannot_be_opened_or_read_is_kept_and_stops_nothing(tmp_path: Path, ring: FileRing) -> None:
    made = Deployment(tmp_path, ring=ring)
    token = bytearray(made.secrets.seal_raw("consents", b"no envelope", made.now_ms))
    made.runtime.append([Output("consents", b"k", bytes(token))], made.now_ms)
    token[-1] ^= 1
    made.runtime.append([Output("consents", b"k", value) for value in (bytes(token), b"plain", None)], 1)
    made.publish("consent.given", CONSENT)
    assert codes(made) == ["unreadable", "unreadable", "missing-field", "empty"]  # b"plain": a publisher's, without attributes
    assert len(made.latest("consent.state")) == 1


def test_the_beat_stands_still_while_there_is_more_to_read_than_was_read(tmp_path: Path, ring: FileRing) -> None:
    made = deployment(tmp_path, ring, Scripted("quiet", lambda *_: iter(())))
    made.settle()
    before = made.loop.beat_ms
    for _ in range(RECORDS_PER_TASK_MAX + 1):
        made.publish("consent.given", CONSENT, settle=False)
    made.now_ms += 60_000
    made.loop.turn()
    assert made.loop.beat_ms == before
    made.settle()
    assert made.loop.beat_ms == made.now_ms


def test_the_beat_advances_under_steady_load_and_never_past_what_is_folded(tmp_path: Path, ring: FileRing) -> None:
    made = Deployment(tmp_path, ring=ring)
    made.settle()
    for n in range(12):
        made.now_ms += 100
        made.publish("consent.given", CONSENT, id_=f"steady{n}", settle=False)
        made.loop.turn()
        beat = made.loop.beat_ms
        folded = {v.evidence_ref for _, v in made.rows("consent.state") if v is not None}  # type: ignore[attr-defined]
        published = {f"steady{k}" for k in range(n + 1) if made.now_ms - 100 * (n - k) < beat}
        assert published <= folded
    assert made.loop.beat_ms > made.now_ms - 100 * (PIPELINE_TURNS + 1)


def test_an_alarm_whose_processor_fails_rings_again_and_names_nobody(tmp_path: Path, ring: FileRing) -> None:
    rang: list[int] = []

    def wake(view: Any, alarm: Alarm, now: Any) -> Iterator[Effect]:
        rang.append(now.now_ms)
        yield Audit("rang", now.controller)
        if len(rang) < 3:
            raise ValueError(view.owner)

    made = deployment(tmp_path, ring, Scripted("timer", lambda v, e, at: iter([Wake("clock", at.receipt_ms)]), wake))
    made.publish("consent.given", CONSENT)
    made.settle(FAULT_WAIT_MS - 1)
    assert len(rang) == 1
    made.settle(1)
    made.settle(FAULT_WAIT_MS)
    made.settle(10 * FAULT_WAIT_MS)
    assert len(rang) == 3 and len(made.audit("rang")) == 1
    assert made.ref(CUSTOMER) not in str(list(made.rows("quarantine")))


def test_what_a_door_resolved_stands_whatever_the_settings_are_when_it_is_folded(tmp_path: Path, ring: FileRing) -> None:
    made = Deployment(tmp_path, ring=ring)
    german = made.ref("+49301234567")
    named = {"identifiers": [{"kind": "tel", "value": "030 1234567"}], "purposes": ["*"], "method": "web"}
    made.publish("controller.configured", {"default_region": "AT", "employee_basis": "contract"})
    made.publish("consent.withdrawn", named, refs=(german,))
    assert [row.subject_ref for row in made.latest("consent.state").values()] == [german]


def test_a_doors_consent_is_handed_on_unread_and_becomes_what_a_fold_makes_of_it(
    tmp_path: Path, ring: FileRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Deployment(tmp_path, ring=ring)
    ref = made.ref(CUSTOMER)
    made.publish("consent.given", CONSENT, id_="read")
    read: list[str] = []

    def noted(type_: str, content_type: str, data: bytes) -> Record:
        read.append(type_)
        return decode_event(type_, content_type, data)

    monkeypatch.setattr("engine.partition.decode_event", noted)
    monkeypatch.setattr("engine.partition.decode_checked", noted)
    made.publish("consent.given", CONSENT, id_="unread", refs=(ref,))
    assert read == ["consent.given"], "once, by the subject task"
    keys, sent = zip(*[
        (record.key, unpacked(made.secrets.open_raw("subject.events", record.value) or b""))
        for n in range(4) for record in made.runtime.read("subject.events", n, 0, 10)
    ], strict=True)  # fmt: skip
    assert keys == (ref.encode(),) * 2
    assert msgspec.structs.replace(sent[0], id="unread") == sent[1]


@pytest.mark.parametrize(
    ("change", "refs"),
    [({}, 0), ({}, 2), ({"type": "call.ended"}, 1), ({"time_ms": 1 + 86_400_001}, 1), ({"refs": ("",)}, 1)],
)
def test_what_asks_for_a_look_at_its_data_is_not_handed_on(change: dict[str, Any], refs: int) -> None:
    plain: dict[str, Any] = {
        "id": "e", "source": "s", "type": "consent.given", "controller": "acme", "time_ms": 1, "receipt_ms": 1,
    }  # fmt: skip
    envelope = Envelope(**{**plain, "refs": ("sub_a", "sub_b")[:refs], **change})
    assert AdmitEvent().hand_on(envelope) is None
    assert AdmitEvent().hand_on(Envelope(**plain, refs=("sub_a",))) is not None


def test_an_owner_gets_a_new_name_in_the_audit_when_its_nonce_is_deleted_or_never_kept(tmp_path: Path, ring: FileRing) -> None:
    def fold(view: Any, event: Any, at: Any) -> Iterator[Effect]:
        step.append(len(step))
        yield Audit("named", at.controller)
        if len(step) == 1:
            raise ValueError("its nonce goes with it")
        if len(step) == 3:
            yield Delete(Nonce)

    step: list[int] = []
    made = deployment(tmp_path, ring, Scripted("name", fold))
    owner = made.ref(CUSTOMER)

    def kept() -> list[str]:
        """What the nonce that rests names its owner."""
        rests = [v for n in range(4) for _, v in made.runtime.scan("subject", n, state_key(owner, Nonce.KIND, ()))]
        return [sha256(Nonce(*msgspec.msgpack.decode(value)).value + owner.encode()).hexdigest() for value in rests]

    names = []
    for _ in range(4):
        made.publish("consent.given", CONSENT)
        names.append(kept())
    subjects = [entry.subject for entry in made.audit("named")]
    assert len(subjects) == 3 and subjects[0] == subjects[1] != subjects[2]
    assert names == [[], [subjects[0]], [], [subjects[2]]]


def test_what_is_taken_back_is_as_it_was_and_a_wrapped_key_is_known_for_one_turn(tmp_path: Path, ring: FileRing) -> None:
    made = Deployment(tmp_path, ring=ring)
    overlay = Overlay(made.runtime, "subject", 0)
    key, other, wrapped = state_key("o", "note", ("1",)), state_key("o", "note", ("2",)), data_key("o", "scope")
    overlay.put(key, Note(1))
    overlay.mark()
    overlay.put(key, Note(2))
    overlay.put(key, None)
    overlay.put(other, Note(3))
    overlay.set(wrapped, b"key")
    overlay.undo()
    assert overlay.writes() == {key: msgspec.msgpack.encode(Note(1))}
    assert overlay.get(Note, key) == Note(1) and overlay.get(Note, other) is None and overlay.get_bytes(wrapped) is None
    overlay.set(wrapped, b"key")
    assert overlay.get_bytes(wrapped) == b"key"
    overlay.committed()
    assert overlay.get_bytes(wrapped) is None and overlay.get(Note, key) == Note(1)
    overlay.forget()
    assert overlay.get(Note, key) is None, "the store never had it"


def test_a_destroyed_raw_key_opens_nothing_in_the_next_batch(tmp_path: Path, ring: FileRing) -> None:
    made = Deployment(tmp_path, ring=ring)
    token = made.secrets.sealing("calls", made.now_ms)(b"words")
    assert made.secrets.opening("calls")(token) == b"words"
    with pytest.raises(TokenForeign):
        made.secrets.opening("consents")(token)
    ring.close_raw("raw", made.now_ms)
    ring.destroy_raw([raw_key_id(token)])
    assert made.secrets.opening("calls")(token) is None
