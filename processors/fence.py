"""The fence of an erased identifier: nothing at or before its time, and none of its erased conversations, comes back."""

from collections.abc import Iterator
from hashlib import sha256
from typing import ClassVar

from processors.kernel import Effect, Put, State, View


class Fence(State):
    """When this identifier was last erased, and how often: later events belong to a new incarnation, linked to nothing."""

    KIND: ClassVar[str] = "fence"
    at_ms: int = 0
    incarnation: int = 0
    epoch: int = 0  # where the next incarnation's epoch goes on from: readers never see one go backwards
    requests: list[str] = []  # that were carried out here, newest last: each once


class Fenced(State):
    """A conversation, or an event from a fast clock, that was erased here; its key is a hash, so the fence does not name it."""

    KIND: ClassVar[str] = "fenced"
    at_ms: int = 0


def mark_of(owner: str, name: str) -> str:
    """How a fence remembers a conversation or an event: a hash bound to the owner."""
    return sha256(f"{owner}\x1f{name}".encode()).hexdigest()[:32]


def refuses(view: View, effective_ms: int, name: str) -> bool:
    """Whether the owner's fence refuses an event of this effective time, or of this conversation or event id (`name`)."""
    fence = view.get(Fence)
    if fence is not None and effective_ms <= fence.at_ms:
        return True
    # A home may have erased single conversations without a fence of its own.
    return view.get(Fenced, mark_of(view.owner, name)) is not None


def fenced_off(view: View, conversation_id: str, now_ms: int) -> Iterator[Effect]:
    """Fence a conversation that was refused: it was in progress when the erasure came, and was folded late.

    Folded in time it would have been erased, and the rest of it refused: who joins it again must not come back by that.
    """
    mark = mark_of(view.owner, conversation_id)
    if view.get(Fenced, mark) is None:
        yield Put(Fenced(now_ms), (mark,))
