"""One life of a worker's process as the world sees it: where it may be cut short, held up, or overtaken by others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Killed(BaseException):
    """The process is dead: nothing of it runs on, no handler and no clean-up. No `except Exception` sees it."""


class Process:
    """A process. Every call that leaves it goes through `crossing`, which lets fate strike before and after it."""

    def __init__(self, worker: str, life: int, strike: Callable[["Process", str, str], None]) -> None:
        self.worker, self.life = worker, life
        self.alive, self.paused = True, False
        self._strike = strike

    @property
    def runs(self) -> bool:
        """Whether its background threads do anything now."""
        return self.alive and not self.paused

    def check(self) -> None:
        """Raise `Killed` in a process that is dead."""
        if not self.alive:
            raise Killed

    @contextmanager
    def crossing(self, call: str) -> Iterator[None]:
        """Around a call to the outside: something may happen just before it, or just after it had its effect."""
        self.check()
        self._strike(self, call, "before")
        self.check()
        yield
        self._strike(self, call, "after")
        self.check()
