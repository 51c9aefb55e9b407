"""What rules look at in an item, and so its window now: worked out anew each time, since policies and law change."""

from processors.item import HeldBy, Item, Tagged
from processors.kernel import Context, View
from processors.tags import mark_named
from processors.windows import Times, Traits, Window, window_of
from schemas.topics import ControllerState


def window_for(view: View, conversation_id: str, item: Item, at: Context, now_ms: int) -> Window:
    """What rules make of an item now."""
    tagged, held = view.get(Tagged, conversation_id), view.get(HeldBy, conversation_id)
    settings = at.settings(item.controller)
    return window_of(
        traits_of(item, tagged, held, settings), Times(item.ended_ms or item.started_ms, item.received_ms, now_ms), settings,
        at.law(item.controller),
    )  # fmt: skip


def traits_of(item: Item, tagged: Tagged | None, held: HeldBy | None, settings: ControllerState) -> Traits:
    """What rules look at: a duty may be the controller's by its own place, or come from the party's.

    What must go is the roster's word (`held`), which knows every spelling and tells who joins later. Employees hold no tags.
    """
    places = tuple(dict.fromkeys(place for place in (item.jurisdiction, settings.default_region) if place)) or ("*",)
    tags = frozenset(name for tag in tagged.tags for name in (tag.casefold(), mark_named(tag)) if name) if tagged else frozenset()
    ceilings = frozenset(held.ceilings) if held is not None and not item.employee else frozenset()
    return Traits(item.channel, frozenset(item.purposes), item.basis, tags, places, ceilings)
