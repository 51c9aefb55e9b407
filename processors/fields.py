"""Which groups of fields a partial erasure takes, and what stands in their place: an item's records without them.

The groups are those of the compliance page that analysts know: numbers, e-mail and IP addresses go unless somebody chose
otherwise; what was said, recordings and metadata stay unless somebody chose them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from processors.item import Item, ItemLine
from processors.kernel import State
from schemas.events import FIELD_GROUPS, METADATA_KEY
from schemas.markers import CONTENT, OTHER, marker_for

EVERYTHING: Final = "*"
BY_DEFAULT: Final = dict.fromkeys(FIELD_GROUPS, False) | {"numbers": True, "emails": True, "ips": True}
GROUP_OF: Final = {"tel": "numbers", "email": "emails", "ip": "ips"}  # an identifier's kind; further kinds: other_metadata


def chosen(settings: Mapping[str, bool]) -> tuple[str, ...]:
    """The groups that are on, by a controller's `sealed_fields`; single metadata keys as `metadata.KEY`."""
    known = {name: on for name, on in settings.items() if name in BY_DEFAULT or name.startswith(METADATA_KEY)}
    return tuple(sorted(name for name, on in (BY_DEFAULT | known).items() if on))


def unknown(settings: Iterable[str]) -> list[str]:
    """Names that are no group: a choice of these has no effect."""
    return sorted(name for name in settings if name not in BY_DEFAULT and not name.startswith(METADATA_KEY))


def merged_by(settings: Mapping[str, bool], merge_keys: Collection[str]) -> list[str]:
    """The chosen metadata keys that conversations are merged by."""
    return sorted(name for name, on in settings.items() if on and name.removeprefix(METADATA_KEY) in merge_keys)


def masks(groups: Collection[str]) -> Callable[[State], State]:
    """Give the function that puts markers in the place of `groups` in an opened record of an item."""

    def mask(record: State) -> State:
        if isinstance(record, Item):
            return _item(record, groups)
        if isinstance(record, ItemLine) and "content" in groups:
            return msgspec.structs.replace(record, text=CONTENT)
        return record

    return mask


def _item(item: Item, groups: Collection[str]) -> Item:
    if isinstance(item.identifiers, str):
        told = msgspec.json.decode(item.identifiers, type=list[dict[str, str]])
        for one in told:
            if GROUP_OF.get(one["kind"], "other_metadata") in groups:
                one["value"] = marker_for("", one["kind"])
        item = msgspec.structs.replace(item, identifiers=msgspec.json.encode(told).decode())
    if isinstance(item.metadata, str):
        said = msgspec.json.decode(item.metadata, type=dict[str, str])
        masked = {k: OTHER if "custom_metadata" in groups or METADATA_KEY + k in groups else v for k, v in said.items()}
        item = msgspec.structs.replace(item, metadata=msgspec.json.encode(masked).decode())
    if item.name is not None and "other_metadata" in groups:
        item = msgspec.structs.replace(item, name=OTHER)
    return item
