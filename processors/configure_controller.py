"""Keeps a controller's settings, policies and choice of law packs: the last word is in force, and every task gets a copy."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, assert_never

import msgspec

from law.book import Book
from processors.fields import merged_by, unknown
from processors.kernel import Audit, Effect, Emit, Put, Quiet, Receipt, Refuse, State, View
from processors.policies import POLICIES_MAX, facts_of_policy, policy_of, with_policy, wrong_period
from schemas.base import NAME_CHARS_MAX, Record
from schemas.cloudevents import millis
from schemas.events import METADATA_KEY, ControllerConfigured, LawActivated, RetentionPolicySet
from schemas.topics import ControllerState

SEEN_MAX = 64  # event ids remembered: a controller is configured by hand, a few times a year
GROUPS_MAX = 64  # sealed field groups: there are some ten, and each changed one becomes a fact of an audit entry


class _Asked(Protocol):
    """What knows settings, and the law packs of this deployment: a fold's context, or a door."""

    def settings(self, controller: str) -> ControllerState: ...
    def law(self, controller: str) -> Book: ...


def can_activate(ctx: _Asked, controller: str, event: LawActivated, chosen: Mapping[str, str] | None = None) -> bool:
    """Whether the deployment has that version of the pack, and it goes with those `chosen`, by default in the settings in force.

    Where a version that was chosen before is gone, what counts is the shipped packs: only another choice helps then.
    """
    chosen = ctx.settings(controller).law if chosen is None else chosen
    book, choice = ctx.law(""), {event.pack: event.version}
    return book.offers({**chosen, **choice} if book.offers(chosen) else choice)


class Settings(State):
    """The settings in force and the event they come from. `seen`: ids of the last SEEN_MAX events, oldest first."""

    KIND: ClassVar[str] = "settings"
    state: ControllerState
    effective_ms: int
    event_id: str
    seen: list[str]
    laws: dict[str, tuple[int, str]] = {}  # pack → effective time and id of the event that chose its version


class ConfigureController(Quiet):
    """Keeps the settings of one controller.

    * The last `controller.configured` by effective time is in force (then the greater event id). A field it leaves out
      gets its default, not its former value.
    * Each one applied raises `version` and is emitted on `controllers`, with a `controller.configured` audit entry. One
      that was overtaken by a newer leaves `controller.overtaken`; one that was seen before leaves nothing.
    * A change of what a partial erasure takes (`sealed_fields`, see `processors/fields.py`) is an entry of its own: which groups
      went on, off or back to the default (`FIELD_CONFIG_UPDATE`), and which metadata keys did (`METADATA_KEY_UPDATE`). The
      fact `merges` warns of keys that conversations are merged by: their choice takes that from the publisher's systems.
      `unknown` lists names that are no group.
    * The controller's own identifiers become refs: they are never subjects.
    * Retention policies stay through configurations; each is a version of its own name (`policies.py`), and raises `version` too.
    * `law.activated` chooses the version of one pack: the last by effective time for each pack. It stays when settings change. A
      pack or version that the deployment does not have is refused; it is on record as `law.activated`, or `law.overtaken`.
    """

    name = "configure_controller"
    READS: ClassVar[tuple[type[Record], ...]] = (ControllerConfigured, RetentionPolicySet, LawActivated)
    STATE: ClassVar[tuple[type[State], ...]] = (Settings,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the new settings, or nothing; refusals `too-many-groups`, `too-many-policies`, `not-a-period`, `unknown-law`."""
        known = view.get(Settings)
        if known is not None and at.event_id in known.seen:
            return
        match event:
            case ControllerConfigured():
                yield from self._configure(known, event, at)
            case RetentionPolicySet():
                yield from self._set_policy(known, event, at)
            case LawActivated():
                yield from self._activate(known, event, at)
            case _:
                assert_never(event)

    def _configure(self, known: Settings | None, event: ControllerConfigured, at: Receipt) -> Iterator[Effect]:
        groups = event.sealed_fields
        if len(groups) > GROUPS_MAX or any(len(group) > NAME_CHARS_MAX for group in groups):
            yield Refuse("too-many-groups", "sealed_fields")
            return
        rank = (at.effective_ms, at.event_id)
        seen = [*(known.seen if known else ()), at.event_id][-SEEN_MAX:]
        if known is not None and rank < (known.effective_ms, known.event_id):
            yield Put(msgspec.structs.replace(known, seen=seen))
            yield Audit("controller.overtaken", at.controller, {"version": str(known.state.version)})
            return
        before = known.state if known else ControllerState(controller=at.controller)
        state = ControllerState(
            controller=at.controller, version=before.version + 1, default_region=event.default_region,
            own_refs=tuple(ref for ref in at.envelope.refs if ref), employee_basis=event.employee_basis,
            four_eyes=event.four_eyes, sealed_fields=groups, targets=event.targets, merge_keys=event.merge_keys,
            policies=before.policies, law=before.law,
            national_dnc_as_of_ms=millis(event.national_dnc_as_of) if event.national_dnc_as_of else None,
            recording_duty=event.recording_duty,
        )  # fmt: skip
        yield Put(Settings(state, *rank, seen, known.laws if known else {}))
        yield Audit("controller.configured", at.controller, {"version": str(state.version)})
        changed = _changed(before.sealed_fields, groups)
        fields = {name: to for name, to in changed.items() if not name.startswith(METADATA_KEY)}
        keys = {name: to for name, to in changed.items() if name not in fields}
        if fields:
            strange = [name for name in unknown(groups) if name in fields]
            yield Audit("FIELD_CONFIG_UPDATE", at.controller, fields | ({"unknown": ",".join(strange)} if strange else {}))
        if keys:
            merging = [name for name in merged_by(groups, event.merge_keys) if name in keys]
            yield Audit("METADATA_KEY_UPDATE", at.controller, keys | ({"merges": ",".join(merging)} if merging else {}))
        yield Emit("controllers", (at.controller,), state)

    def _set_policy(self, known: Settings | None, event: RetentionPolicySet, at: Receipt) -> Iterator[Effect]:
        field = wrong_period(event)
        if field is not None:
            yield Refuse("not-a-period", field)
            return
        old = known or Settings(ControllerState(controller=at.controller), 0, "", [])
        policy = policy_of(event, at.effective_ms, at.event_id)
        policies = with_policy(old.state.policies, policy, at.receipt_ms)
        if policies is not None and len(policies) > POLICIES_MAX:
            yield Refuse("too-many-policies", "policy_id")
            return
        seen = [*old.seen, at.event_id][-SEEN_MAX:]
        if policies is None:
            yield Put(msgspec.structs.replace(old, seen=seen))
            yield Audit("retention.policy_overtaken", at.controller, facts_of_policy(policy))
            return
        state = msgspec.structs.replace(old.state, version=old.state.version + 1, policies=policies)
        yield Put(msgspec.structs.replace(old, state=state, seen=seen))
        by = {"by": at.actor_hash(at.controller, at.envelope.actor), "version": str(state.version)}
        yield Audit("retention.policy_set", at.controller, facts_of_policy(policy) | by)
        yield Emit("controllers", (at.controller,), state)

    def _activate(self, known: Settings | None, event: LawActivated, at: Receipt) -> Iterator[Effect]:
        # By its own state: the settings of a context may not have heard yet of what was chosen a moment ago.
        if not can_activate(at, at.controller, event, known.state.law if known else {}):
            yield Refuse("unknown-law", "pack")
            return
        known = known or Settings(ControllerState(controller=at.controller), 0, "", [])
        known = msgspec.structs.replace(known, seen=[*known.seen, at.event_id][-SEEN_MAX:])
        rank = (at.effective_ms, at.event_id)
        facts = {"pack": event.pack, "version": event.version, "by": at.actor_hash(at.controller, at.envelope.actor)}
        if rank < known.laws.get(event.pack, (0, "")):
            yield Put(known)
            yield Audit("law.overtaken", at.controller, facts)
            return
        law = {**known.state.law, event.pack: event.version}
        state = msgspec.structs.replace(known.state, version=known.state.version + 1, law=law)
        yield Put(msgspec.structs.replace(known, state=state, laws={**known.laws, event.pack: rank}))
        yield Audit("law.activated", at.controller, facts | {"before": known.state.law.get(event.pack, "newest")})
        yield Emit("controllers", (at.controller,), state)


def _changed(before: dict[str, bool], after: dict[str, bool]) -> dict[str, str]:
    """Say which groups' choice changed, to `on`, `off` or `default`."""
    word = {True: "on", False: "off", None: "default"}
    return {name: word[after.get(name)] for name in sorted({*before, *after}) if before.get(name) != after.get(name)}
