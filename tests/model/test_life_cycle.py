"""The life cycle of a person's data, explored: consent × request × hold × retention × restore × return, in every order.

From every state that is reached, also: everybody does what they have to, time passes, and everything has ended. The least that
each scope sees stands beside it, so that none can shrink unseen.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.actions import EVERY
from tests.model.explorer import Explored, Explorer, Scope

HOLDS = Scope(
    ("call", "open"), ("verify", "hold", "release", "hold A", "release A", "acknowledged", "media gone", "past retention"), 5
)  # fmt: skip
VOICES = Scope(
    ("call", "open"), ("verify", "hold B", "release B", "hold A", "release A", "media gone", "past retention"), 5
)  # fmt: skip
RESTORES = Scope(
    ("call", "open"), ("verify", "backup", "restore", "hold", "again", "acknowledged", "media gone", "returns"), 5
)  # fmt: skip
LOST = Scope(
    ("call", "backup"), ("open", "verify", "restore", "open 2", "verify 2", "acknowledged", "media gone", "returns"), 6
)  # fmt: skip
CONSENTS = Scope(
    ("call",), ("given", "withdrawn", "old grant", "suppressed", "open", "verify", "acknowledged", "media gone", "returns"), 5
)  # fmt: skip
LINKS = Scope(
    ("call", "third"), ("linked", "linked late", "unlinked", "open", "verify", "acknowledged", "media gone", "old call"), 5
)  # fmt: skip
REQUESTS = Scope(
    ("call", "open"), ("verify", "open 2", "verify 2", "hold", "release", "acknowledged", "media gone", "alarm"), 4
)  # fmt: skip
RETURNS = Scope(
    ("call", "open", "verify", "acknowledged", "media gone"),
    ("returns", "again", "repeat", "old call", "more", "open 2", "verify 2", "acknowledged", "hold A", "past retention"), 3,
)  # fmt: skip
# A call that comes in the midst of an erasure is refused, and its recording stays with the other customer: not built yet.
STARTS = Scope((), ("call", "open", "verify"), 3, racing=True, own_media=True)
RACES = Scope(("call", "open"), ("verify", "more", "hold", "returns"), 3, racing=True)

LEAST = {  # states, transitions
    "holds": (HOLDS, 750, 850), "voices": (VOICES, 450, 500), "restores": (RESTORES, 650, 850), "lost": (LOST, 340, 480),
    "consents": (CONSENTS, 780, 950), "links": (LINKS, 240, 320), "requests": (REQUESTS, 330, 340),
    "returns": (RETURNS, 290, 340), "starts": (STARTS, 95, 120), "races": (RACES, 950, 1200),
}  # fmt: skip

# What the explorer found, each by its shortest way.
SILENT = Scope(("call", "open"), ("verify", "again"), 2, silent=())
ANSWERED = Scope(("call", "open"), ("backup", "verify", "restore", "acknowledged"), 5, retries=False)
REOPENED = Scope(("call", "backup"), ("open", "verify", "restore", "open again"), 5)
AGED = Scope(("call", "open"), ("past retention", "verify", "acknowledged"), 3, own_media=False)
SHARED = Scope(("call", "open", "open 2"), ("verify", "verify 2", "acknowledged"), 4, own_media=False)


def explore(folder: Path, scope: Scope) -> Explored:
    return Explorer(folder, scope).run()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_every_order_of_a_few_steps_keeps_every_promise(name: str, tmp_path: Path) -> None:
    scope, states, transitions = LEAST[name]
    seen = explore(tmp_path, scope)
    print(f"{name}: {seen.states} states, {seen.transitions} transitions, {seen.turns} turns; {seen.names}")
    assert seen.states >= states and seen.transitions >= transitions
    assert set(scope.actions) <= set(seen.names), "an action that never happens shows nothing"


def test_every_action_of_the_alphabet_is_in_some_scope() -> None:
    scopes = [REOPENED, *(scope for scope, *_ in LEAST.values())]
    assert set(EVERY) == {name for scope in scopes for name in (*scope.before, *scope.actions)}


# Found, each by the shortest way there. Strict, so that whoever mends one takes the mark away.


def test_a_call_of_an_erased_party_that_comes_again_leaves_a_word(tmp_path: Path) -> None:
    explore(tmp_path, SILENT)


def test_an_answer_that_comes_before_a_restored_request_is_verified_again_counts(tmp_path: Path) -> None:
    explore(tmp_path, ANSWERED)


def test_a_request_that_a_restore_lost_ends_when_it_is_opened_again(tmp_path: Path) -> None:
    explore(tmp_path, REOPENED)


def test_a_request_waits_for_a_recording_that_was_already_to_go_by_its_age(tmp_path: Path) -> None:
    explore(tmp_path, AGED)


def test_a_second_request_waits_for_the_recording_that_the_first_ordered_away(tmp_path: Path) -> None:
    explore(tmp_path, SHARED)
