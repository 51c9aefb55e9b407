"""Seeds to stories: which job a seed runs, what it found, and the trace that led there (the same seed is told again for it)."""

from collections.abc import Iterator

import msgspec

from engine.simulation.bugs import BUGS, NONE, Bug
from engine.simulation.consents import ConsentJob
from engine.simulation.counting import CountingJob
from engine.simulation.fate import Blow, Once
from engine.simulation.world import Finding, Job, World

EVENTS = 30
CONSENTS_EVERY = 8  # one seed in so many runs the real topology, which takes longer


class Outcome(msgspec.Struct, frozen=True):
    """How a story ended. `finding` is empty when nothing was wrong; `trace` is what led to it, oldest first."""

    seed: int
    job: str
    blows: int
    finding: str = ""
    trace: tuple[str, ...] = ()


def bug_named(name: str | None) -> Bug:
    """The planted bug of a name. Raises KeyError."""
    return NONE if name is None else BUGS[name]


def tell(seed: int, bug: Bug = NONE, events: int = EVENTS, *, trace: bool = False) -> Outcome:
    """Run one seed; with `trace`, note everything on the way."""
    job: Job = ConsentJob() if seed % CONSENTS_EVERY == CONSENTS_EVERY - 1 else CountingJob()
    world = World(seed, job, events=events, bug=bug, trace=trace)
    finding = ""
    try:
        world.run()
    except Finding as found:
        finding = found.what
    return Outcome(seed, type(job).__name__, world.blows, finding, tuple(world.trace or ()))


def tell_once(seed: int, number: int, blow: Blow, events: int = EVENTS) -> tuple[Outcome, bool]:
    """Run one seed with nothing but one blow, at the call of this number; and say whether there was such a call."""
    fate = Once(number, blow)
    world = World(seed, CountingJob(), events=events, fate=fate)
    finding = ""
    try:
        world.run()
    except Finding as found:
        finding = found.what
    return Outcome(seed, "CountingJob", world.blows, finding), world.blows > 0


def stories(first: int, count: int, bug: Bug = NONE, events: int = EVENTS) -> Iterator[Outcome]:
    """Run seeds `first` to `first + count - 1`; one with a finding is told again, with its trace."""
    for seed in range(first, first + count):
        outcome = tell(seed, bug, events)
        yield tell(seed, bug, events, trace=True) if outcome.finding else outcome
