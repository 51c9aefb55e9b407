"""The independent auditor: folds the input once, naively and with no code of the engine, and compares what came of it.

It reads the broker's logs as they stand. RFC 6962's hashes are written out again here, on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from engine.kafka.names import POSITION, RESERVED
from schemas.codec import decode

if TYPE_CHECKING:
    from engine.simulation.world import World

FRONTIER = b"m"


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\1" + tree_hash(leaves[:half]) + tree_hash(leaves[half:])).digest()


def frontier_of(leaves: Sequence[bytes]) -> bytes:
    """What a task partition keeps of its tree: its size, and the root of each full subtree, the largest first."""
    found, start = len(leaves).to_bytes(8, "big"), 0
    for bit in range(len(leaves).bit_length() - 1, -1, -1):
        if len(leaves) >> bit & 1:
            found += tree_hash(leaves[start : start + (1 << bit)])
            start += 1 << bit
    return found


def cluster_faults(world: World) -> Iterator[str]:
    """What must hold whatever the job is."""
    committed = [unit for transaction, unit in world.passed.items() if transaction.outcome == "committed"]
    yield from (f"{unit}: a store has passed by what was committed" for unit in committed)
    yield from _commits(world)
    yield from _trees(world)
    owners = world.owners()
    for task in world.tasks:
        for n in range(task.partitions):
            where, kept = f"{task.name}/{n}", world.changelog(task.name, n)
            for topic in task.inputs:
                group = world.cluster.offsets.get((world.names.topic(topic), n), (-1, ""))[0]
                state = kept.get(POSITION + topic.encode())
                if group >= 0 and (state is None or int.from_bytes(state, "big") != group):
                    yield f"{where}: the changelog's position in {topic} is not the group's"
            runtime = owners[task.name, n].runtime
            held = dict(runtime.scan(task.name, n, b""))
            told = {key: value for key, value in kept.items() if not key.startswith(RESERVED)}
            if held != told:
                keys = sorted(k for k in {*held, *told} if held.get(k) != told.get(k))
                yield f"{where}: the owner's store differs from its changelog in {len(keys)} keys, first {keys[0][:40]!r}"
    if any(True for _ in world.outputs("quarantine")):
        yield "something went to quarantine"


def _commits(world: World) -> Iterator[str]:
    """A place's commits follow each other in generations, and in one generation one member commits."""
    last: dict[Any, tuple[int, str]] = {}
    for at, generation, member, _ in world.cluster.commits:
        known = last.get(at)
        if generation >= 0:
            if known is not None and generation < known[0]:
                yield f"{at[0]}/{at[1]}: committed in generation {generation} after {known[0]}"
            if known is not None and generation == known[0] and member != known[1]:
                yield f"{at[0]}/{at[1]}: two members committed in generation {generation}"
            last[at] = (generation, member)


def _trees(world: World) -> Iterator[str]:
    """Every audit log is whole, in order, and hashes to the frontier in the state of its task partition."""
    leaves: dict[str, list[bytes]] = {}
    for _, _, value in world.outputs("audit.entries"):
        entry: Any = decode(value or b"")
        log = leaves.setdefault(entry.origin, [])
        if entry.index != len(log):
            yield f"audit log of {entry.origin[-12:]}: index {entry.index} stands at {len(log)}"
        log.append(value or b"")
    for task in world.tasks:
        for n in range(task.partitions):
            origin = next((o for o in leaves if o.endswith(f"/{task.name}/{n}")), None)
            kept = world.changelog(task.name, n).get(FRONTIER)
            if kept != (None if origin is None else frontier_of(leaves[origin])):
                yield f"{task.name}/{n}: the audit tree's frontier does not follow from its log"


def sequence_faults(what: str, wanted: Mapping[str, Sequence[Any]], found: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Compare, per key, what must stand there with what stands there, order and all."""
    for key in sorted({*wanted, *found}):
        must, has = list(wanted.get(key, ())), list(found.get(key, ()))
        if must != has:
            lost = [x for x in must if x not in has]
            doubled = sorted({str(x) for x in has if has.count(x) > must.count(x)})
            tally = f"{len(lost)} lost {lost[:3]}, {len(doubled)} doubled or changed {doubled[:3]}"
            yield f"{what} of {key}: {tally}, {len(has)} of {len(must)}"
