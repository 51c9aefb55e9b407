"""Engine bugs, planted from outside for the length of one story: the simulation must find each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException

from engine.effects import Effects
from engine.kafka.membership import Membership
from engine.kafka.names import CHANGELOG
from engine.kafka.runtime import KafkaRuntime
from engine.kafka.store import META
from engine.kafka.transactor import CALL_SECS_MAX, Transactor
from engine.overlay import Overlay
from engine.simulation.consumer import FakeReader
from engine.simulation.disk import Batch, Database


class Bug:
    """A bug: what is put in the place of what. The engine itself knows nothing of it."""

    name = ""

    def patches(self) -> list[tuple[Any, str, Any]]:
        """List (class or module, attribute, what stands there instead)."""
        return []

    def clients(self, kind: type) -> type:
        """The class of the clients that workers are given."""
        return kind

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Plant it, and take it away again."""
        planted = [(owner, name, getattr(owner, name), instead) for owner, name, instead in self.patches()]
        try:
            for owner, name, _, instead in planted:
                setattr(owner, name, instead)
            yield
        finally:
            for owner, name, before, _ in planted:
                setattr(owner, name, before)


NONE = Bug()


class StoreBeforeCommit(Bug):
    """The store learns what is written when it is produced, not when it is committed."""

    name = "store_before_commit"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        honest = Transactor._produce_changelog

        def early(self: Transactor, producer: Any, owned: Any, writes: dict[bytes, bytes | None]) -> None:
            honest(self, producer, owned, writes)
            owned.store.committed(writes, owned.store.position, 0)

        return [(Transactor, "_produce_changelog", early)]


class RestoreToStableEnd(Bug):
    """Recovery takes the last stable offset for the end of a changelog."""

    name = "restore_to_stable_end"

    def clients(self, kind: type) -> type:
        """See `Bug`."""

        class Blind(kind):  # type: ignore[misc]
            def ends(self, places: Any, *, committed: bool) -> Any:
                asked = list(places)
                return super().ends(asked, committed=committed or all(topic.startswith(CHANGELOG) for topic, _ in asked))

        return Blind


class UnstableOffsets(Bug):
    """Committed offsets are read without waiting for pending ones (no RequireStable)."""

    name = "unstable_offsets"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        honest = FakeReader.committed

        def hasty(self: FakeReader, places: Any, timeout: float = 60.0) -> Any:
            isolated, self.isolated = self.isolated, False
            try:
                return honest(self, places, timeout)
            finally:
                self.isolated = isolated

        return [(FakeReader, "committed", hasty)]


class NoGeneration(Bug):
    """Offsets are sent without naming the group's generation and member."""

    name = "no_generation"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        honest = Membership.metadata
        return [(Membership, "metadata", lambda self: msgspec.structs.replace(honest(self), generation=-1, member=""))]


class KeptOverlay(Bug):
    """A lost turn's objects stay in the overlay and its cache."""

    name = "kept_overlay"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        return [(Overlay, "forget", lambda self: self.committed()), _unmoved()]


class TornWrite(Bug):
    """A store's position goes down in a batch before the data's."""

    name = "torn_write"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        honest = Database.write

        def torn(self: Database, batch: Batch, options: Any = None) -> None:
            for of_position in (True, False):
                part = Batch()
                part.changes = [change for change in batch.changes if (change[0] == META) == of_position]
                honest(self, part, options)

        return [(Database, "write", torn)]


class KeptOutputs(Bug):
    """What a lost turn sent, alarms that rang in it among them, is sent again with the next one."""

    name = "kept_outputs"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""
        honest = Effects.forget

        def forget(self: Effects) -> None:
            outputs = self.outputs
            honest(self)
            self.outputs.extend(outputs)

        return [(Effects, "forget", forget), _unmoved()]


class OpenOutcome(Bug):
    """A commit that timed out is taken for lost, and the next transaction begins under a new producer without asking."""

    name = "open_outcome"

    def patches(self) -> list[tuple[Any, str, Any]]:
        """See `Bug`."""

        def settle(self: Transactor, producer: Any) -> None:
            try:
                producer.commit_transaction(CALL_SECS_MAX)
            except KafkaException as fault:
                if not fault.args[0].retriable():
                    raise

        return [(Transactor, "_settle", settle)]


def _unmoved() -> tuple[Any, str, Any]:
    """A runtime that does not say which units came back: the loop keeps its partitions with what is in them."""
    honest = KafkaRuntime.tend

    def tend(self: KafkaRuntime) -> list[tuple[str, int]]:
        honest(self)
        return []

    return (KafkaRuntime, "tend", tend)


BUGS: Final = {
    bug.name: bug
    for bug in (
        StoreBeforeCommit(), RestoreToStableEnd(), UnstableOffsets(), NoGeneration(), KeptOverlay(), TornWrite(), KeptOutputs(),
        OpenOutcome(),
    )
}  # fmt: skip
