"""How many effects each fold and each alarm yields: the work of one step, which is bounded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine.partition import Partition


@contextmanager
def watched_steps(done: Callable[[int], object]) -> Iterator[None]:
    """Meanwhile tell `done` of every step how many effects it had."""
    run = Partition._run

    def counted(partition: Partition, processor: Any, verb: Any, view: Any, what: Any, at: Any) -> bool:
        effects = 0

        def each(*args: Any) -> Any:
            nonlocal effects
            for effect in verb(*args):
                effects += 1
                yield effect

        folded = run(partition, processor, each, view, what, at)
        done(effects)
        return folded

    Partition._run = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Partition._run = run  # type: ignore[method-assign]
