"""Marks on a board that several doors share: posted before the append, taken back when nothing happened, missed by nobody."""

from typing import Any

import pytest

from connectors.http.app import create_app
from connectors.http.door import Options
from connectors.http.marks import Denial, Marks, posted
from engine.deployment import Look, Note, Unreachable
from engine.runtime import CommitLost
from processors.uses import Mark
from schemas.events import ConsentChanged, Evidence, SuppressionChanged

from .conftest import Direct, Still, consent

NUMBER = "+493090182300"
WITHDRAWN = ConsentChanged(identifiers=(), purposes=("marketing",), method="web", evidence=Evidence())


class Wall:
    """A board in memory that can be out of reach."""

    def __init__(self) -> None:
        self.notes: dict[str, tuple[str, bytes, float]] = {}
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("away")

    def post(self, notes: list[Note]) -> None:
        self._reach()
        self.notes.update((note.id, (note.owner, note.text, float("inf"))) for note in notes)

    def settle(self, notes: list[Note], until_ms: int) -> None:
        self._reach()
        self.notes.update((note.id, (note.owner, note.text, until_ms)) for note in notes)

    def take_back(self, notes: list[Note]) -> None:
        self._reach()
        for note in notes:
            self.notes.pop(note.id, None)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def shared(still: Still, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> Still:
    """A still house whose door uses the board, and whose state comes with what is on it."""
    app = create_app(still.service, still.store, Options(), wall)
    still._client, still.app = lambda **options: Direct(app, **options), app  # type: ignore[attr-defined]
    still.root = Direct(app, still.root.headers)
    look = still.service.look

    def looked(owners: Any, kinds: Any) -> list[Look]:
        found = []
        for owner, seen in zip(owners, look(owners, kinds), strict=True):
            texts = tuple(text for whom, text, until in wall.notes.values() if whom == owner and until >= seen.beat_ms)
            found.append(Look(seen.beat_ms, seen.records, texts))
        return found

    monkeypatch.setattr(still.service, "look", looked)
    assert still.send("consent.given", consent(NUMBER)).status_code == 202
    still.settle()
    assert still.decide(NUMBER)["verdict"] == "allow"
    still.now_ms += 1_000
    return still


def forget_own(house: Any) -> None:
    """As another door, which has no marks of its own."""
    house.app.state.door.marks._by_ref.clear()


def test_a_denial_is_on_the_board_before_the_append_and_ends_when_it_is_folded(shared: Still, wall: Wall) -> None:
    assert shared.send("consent.withdrawn", consent(NUMBER)).status_code == 202
    forget_own(shared)
    assert shared.decide(NUMBER)["reasons"] == ["withdrawal_pending"]
    assert {until for _, _, until in wall.notes.values()} == {float(shared.now_ms)}
    shared.now_ms += 1
    shared.settle()
    assert shared.decide(NUMBER)["reasons"] == ["consent_withdrawn"]


def test_the_board_is_told_before_the_log(shared: Still, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(shared.service, "publish", lambda events: seen.append(len(wall.notes)))
    shared.send("consent.withdrawn", consent(NUMBER))
    assert seen == [1]


def test_a_denial_that_surely_did_not_happen_is_taken_back(shared: Still, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(events: Any) -> None:
        raise CommitLost("full")

    monkeypatch.setattr(shared.service, "publish", lost)
    assert shared.send("consent.withdrawn", consent(NUMBER)).status_code == 503
    assert wall.notes == {} and shared.decide(NUMBER)["verdict"] == "allow"


def test_without_the_board_a_denial_is_kept_but_not_answered_202(shared: Still, wall: Wall) -> None:
    wall.away = True
    response = shared.send("consent.withdrawn", consent(NUMBER))
    assert response.status_code == 503 and response.headers["retry-after"]
    assert shared.decide(NUMBER)["reasons"] == ["withdrawal_pending"]  # at this door it holds
    assert shared.send("consent.given", consent("+493090182301")).status_code == 202
    shared.now_ms += 1
    shared.settle()
    assert shared.decide(NUMBER)["verdict"] == "deny"
    wall.away = False
    assert shared.send("consent.withdrawn", consent(NUMBER)).status_code == 202


def test_state_that_may_have_lost_a_note_allows_nothing(shared: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    look = shared.service.look

    def forgetful(owners: Any, kinds: Any) -> list[Look]:
        return [Look(seen.beat_ms, seen.records, seen.denials, whole=False) for seen in look(owners, kinds)]

    monkeypatch.setattr(shared.service, "look", forgetful)
    assert shared.decide(NUMBER)["reasons"] == ["not_fresh"]


def test_the_oldest_party_is_as_old_as_the_answer(shared: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    look = shared.service.look

    def behind(owners: Any, kinds: Any) -> list[Look]:
        found = look(owners, kinds)
        return [Look(found[0].beat_ms - 6_000, found[0].records), *found[1:]]

    monkeypatch.setattr(shared.service, "look", behind)
    two = [{"kind": "tel", "value": NUMBER}, {"kind": "tel", "value": "+493090182302"}]
    assert "stale" in shared.decide(NUMBER, identifiers=two)["reasons"]


def test_marks_of_a_lane_end_by_its_own_beat() -> None:
    marks = Marks(lane=lambda ref: int(ref[-1]))
    entries = marks.add("consent.withdrawn", WITHDRAWN, ["ref0", "ref1"])
    marks.settle(entries, 100)
    assert len(marks.sweep(101, 1)) == 1
    assert marks.on("ref1", "dial") == () and len(marks.on("ref0", "dial")) == 1


def test_a_denial_without_room_here_is_on_the_board_all_the_same(wall: Wall) -> None:
    marks = Marks(marks_max=0, board=wall)
    entries = marks.add("consent.withdrawn", WITHDRAWN, ["ref"])
    assert marks.post(entries) and [owner for owner, _, _ in wall.notes.values()] == ["ref"]
    assert marks.blind(0)


def test_a_note_says_what_its_mark_says_and_one_that_cannot_be_read_denies_everything(wall: Wall) -> None:
    marks = Marks(board=wall)
    gpc = SuppressionChanged(identifiers=(), list="gpc", source="web")
    marks.post(marks.add("suppression.added", gpc, ["ref"]) + marks.add("consent.withdrawn", WITHDRAWN, ["ref"]))
    texts = [text for _, text, _ in wall.notes.values()]
    own = Mark(("marketing",))
    assert posted(texts, "dial") == (own,) and set(posted(texts, "share")) == {own, Mark()}
    assert posted([b"\xc1"], "dial") == (Mark(),) and Denial(Mark()).stands_against("share")
