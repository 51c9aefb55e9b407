"""What goes wrong, and when: drawn from the seed, around every call that leaves a process and before every step of a commit."""

from random import Random
from typing import Final, Literal

Blow = Literal["kill", "freeze", "overtake", "outage", "refuse"]

# How likely a call is to be struck, against a commit's: what stands around the commit matters most.
WEIGHTS: Final = {
    "commit": 3.0, "send_offsets": 2.0, "store write": 2.0, "store flush": 2.0, "abort": 1.5, "init_transactions": 1.0,
    "close": 1.0, "committed": 0.6, "ends": 1.0, "consume": 0.2, "poll": 0.3, "flush": 1.0,
}  # fmt: skip
STEP_WEIGHT: Final = 1.0
OUTAGES_MS: Final[tuple[int, ...]] = (200, 3_000, 8_000, 14_000, 25_000)  # questions to a cluster are given up after 10 s
BLOWS: Final[tuple[Blow, ...]] = (
    "kill", "kill", "kill", "freeze", "freeze", "overtake", "overtake", "overtake", "outage", "refuse",
)  # fmt: skip
REFUSABLE: Final = ("ends", "committed", "init_transactions")  # calls that may end in an error of their own


class Fate:
    """Strikes at most `budget` times."""

    def __init__(self, random: Random, odds: float, budget: int) -> None:
        self._random, self._odds = random, odds
        self.left = budget
        self.outages_ms = OUTAGES_MS

    def draw(self, call: str) -> Blow | None:
        """Whether something happens here."""
        if self.left <= 0:
            return None
        weight = WEIGHTS.get(call, STEP_WEIGHT)
        if self._random.random() >= self._odds * weight:
            return None
        self.left -= 1
        return self._random.choice(BLOWS)


class Once(Fate):
    """Strikes once, at a call of a given number, whatever it is: so that every place can be tried in turn."""

    def __init__(self, number: int, blow: Blow) -> None:
        super().__init__(Random(0), 0.0, 0)
        self.calls = 0
        self.outages_ms = OUTAGES_MS[-1:]
        self._number, self._blow = number, blow

    def draw(self, call: str) -> Blow | None:
        """See `Fate`."""
        self.calls += 1
        return self._blow if self.calls == self._number + 1 else None
