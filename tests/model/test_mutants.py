"""Each invariant can fail: a processor with one promise broken, and the shortest way that the explorer finds to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from processors import (
    enforce_retention,
    erase_subject,
    hold_media,
    item_end,
    keep_consent,
    keep_roster,
    order_media,
    protect_item,
    roster,
)
from processors.exceptions import Weighed
from processors.fence import Fence
from processors.hold_media import HoldMedia
from processors.keep_consent import KeepConsent
from processors.kernel import Audit, Delete, Emit, Mint, Put, Shred, View
from processors.permissions import Permissions
from processors.run_request import RunRequest
from schemas.routed import Hold, ItemRedacted
from tests.model.explorer import Broken, Explorer, Scope

Plant = Callable[[pytest.MonkeyPatch], None]


def without(unwanted: Callable[[Any], bool], real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`real` without some of its effects."""
    return lambda *given, **named: (effect for effect in real(*given, **named) if not unwanted(effect))


def keeps_the_others_copy(patch: pytest.MonkeyPatch) -> None:
    drop = without(lambda e: isinstance(e, Emit) and isinstance(e.value, ItemRedacted), roster.drop)
    patch.setattr(keep_roster, "drop", drop)


def shreds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erase_subject, "destroy_item", without(lambda e: isinstance(e, Shred), item_end.destroy_item))


def forgets_which_orders_it_carried_out(patch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        def __init__(self, view: View) -> None:
            self._view, self.owner, self.scan, self.has_key, self.opened = view, view.owner, view.scan, view.has_key, view.opened

        def get(self, kind: type[Any], *parts: str) -> Any:
            found = self._view.get(kind, *parts)
            return msgspec.structs.replace(found, requests=[]) if kind is Fence and found is not None else found

    real = erase_subject.EraseSubject._begin
    patch.setattr(erase_subject.EraseSubject, "_begin", lambda self, view, event, at: real(self, Forgetful(view), event, at))


def waits_for_no_target(patch: pytest.MonkeyPatch) -> None:
    real = RunRequest._settle
    patch.setattr(RunRequest, "_settle", lambda self, case, ms: real(self, msgspec.structs.replace(case, targets={}), ms))


def waits_for_no_recording(patch: pytest.MonkeyPatch) -> None:
    real = RunRequest._settle
    patch.setattr(RunRequest, "_settle", lambda self, case, ms: real(self, msgspec.structs.replace(case, media={}), ms))


def takes_what_is_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protect_item, "refuses", lambda view, effective_ms, name: False)


def mints_again(patch: pytest.MonkeyPatch) -> None:
    """A late line's key, cached: it comes back behind the fence."""
    real = protect_item._nobody

    def nobody(view: Any, conversation_id: str, at: Any) -> Iterator[Any]:
        yield from real(view, conversation_id, at)
        yield Mint(conversation_id, at.controller)

    patch.setattr(protect_item, "_nobody", nobody)
    patch.setattr(keep_roster, "drop", lambda roster, event: iter(()))


def hears_no_release(patch: pytest.MonkeyPatch) -> None:
    real = erase_subject.EraseSubject.fold
    deaf = lambda self, view, event, at: iter(()) if isinstance(event, Hold) else real(self, view, event, at)  # noqa: E731
    patch.setattr(erase_subject.EraseSubject, "fold", deaf)


def arms_nothing_after_a_release(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(enforce_retention.EnforceRetention, "_rearm", lambda self, view, after, at, now_ms: iter(()))
    patch.setattr(enforce_retention, "LOOK_AGAIN_MS", 10**15)


def looks_at_no_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erase_subject, "kept_against", lambda view, conversation_id, plea, by: None)


def expires_what_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(enforce_retention, "weigh_holds", lambda view, conversation_id, by: Weighed((), {}))


def asks_nobody_about_a_voice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roster, "ask_next", lambda check: hold_media.ask_next(msgspec.structs.replace(check, left=())))


def keeps_a_voice_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HoldMedia, "wake", lambda self, view, alarm, now: iter(()))
    patch.setattr(order_media, "ASK_AGAIN_MS", 10**15)


def forgets_suppressions(patch: pytest.MonkeyPatch) -> None:
    real = erase_subject.forget_consents

    def forget(*given: Any) -> Any:
        effects, more = real(*given), False
        while True:
            try:
                effect = next(effects)
            except StopIteration as end:
                more = end.value
                return more
            yield Delete(Permissions) if isinstance(effect, Put) and isinstance(effect.record, Permissions) else effect

    patch.setattr(erase_subject, "forget_consents", forget)


def lets_the_last_word_win(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keep_consent, "outranks", lambda new, old: True)


def keeps_refs_in_rosters(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keep_roster, "drop", without(lambda e: isinstance(e, Put | Delete), roster.drop))


def keeps_links(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(erase_subject, "unlink_all", lambda view: iter(()))


def refuses_in_silence(patch: pytest.MonkeyPatch) -> None:
    quiet = without(lambda e: isinstance(e, Audit) and e.kind == "event.refused", KeepConsent.fold)
    patch.setattr(KeepConsent, "fold", quiet)


def fails(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, case: Any, event: Any, at: Any) -> Iterator[Any]:
        raise RuntimeError("planted")

    patch.setattr(RunRequest, "_linked", broken)


LIFE = ("open", "verify", "acknowledged", "media gone")
MUTANTS: list[tuple[Plant, Scope, str]] = [
    (keeps_the_others_copy, Scope(("call",), LIFE, 4), "stands in"),
    (shreds_nothing, Scope(("call",), LIFE, 4), "lives behind its fence"),
    (forgets_which_orders_it_carried_out, Scope(("call", "open"), ("backup", "restore", "verify"), 4), "fenced its identifier"),
    (waits_for_no_target, Scope(("call",), LIFE, 4), "is not answered"),
    (waits_for_no_recording, Scope(("call",), LIFE, 4), "a recording waits"),
    (takes_what_is_fenced, Scope(("call", "open"), ("verify", "old call"), 3), "behind the fence"),
    (mints_again, Scope(("call", "open"), ("verify", "more"), 3), "lives behind its fence"),
    (hears_no_release, Scope(("call", "open"), ("verify", "hold", "release"), 3), "never closes"),
    (arms_nothing_after_a_release, Scope(("call",), ("hold A", "past retention"), 3), "never leaves"),
    (looks_at_no_hold, Scope(("call", "open"), ("verify", "hold"), 3), "destroyed under its hold"),
    (expires_what_is_held, Scope(("call",), ("hold", "past retention"), 3), "destroyed under its hold"),
    (asks_nobody_about_a_voice, Scope(("call", "open"), ("verify", "hold B"), 2), "ordered away under a hold"),
    (keeps_a_voice_for_ever, Scope(("call", "open"), ("verify", "hold B"), 2), "never closes"),
    (forgets_suppressions, Scope(("call", "open"), ("suppressed", "verify"), 3), "a suppression is gone"),
    (lets_the_last_word_win, Scope((), ("given", "withdrawn", "old grant"), 3), "a grant stands"),
    (keeps_refs_in_rosters, Scope(("call",), LIFE, 4), "A is named in"),
    (keeps_links, Scope(("call", "third", "linked", "open"), LIFE[1:], 4), "A is named in"),
    (refuses_in_silence, Scope(("call", "open"), ("verify", "old grant"), 3), "nothing says so"),
    (fails, Scope(("call",), LIFE, 4), "failed"),
]


@pytest.mark.parametrize(("plant", "scope", "complaint"), MUTANTS, ids=[plant.__name__ for plant, *_ in MUTANTS])
def test_a_broken_promise_is_found(
    plant: Plant, scope: Scope, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    plant(monkeypatch)
    with pytest.raises(Broken) as found:
        Explorer(tmp_path, scope).run()
    print(found.value)
    assert complaint in str(found.value) and "→" in str(found.value)
