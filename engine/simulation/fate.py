"""What goes wrong, and when: drawn from the seed, around every call that leaves a process and before every step of a commit."""

from random import Random
from typing import Final, Literal

Blow = Literal["kill", "freeze", "overtake", "outage"]

# How likely a call is to be struck, against a commit's: what stands around the commit matters most.
WEIGHTS: Final = {
    "commit": 3.0, "send_offsets": 2.0, "store write": 2.0, "store flush": 2.0, "abort": 1.5, "init_transactions": 1.0,
    "close": 1.0, "committed": 0.6, "ends": 1.0, "consume": 0.2, "poll": 0.3, "flush": 1.0,
}  # fmt: skip
STEP_WEIGHT: Final = 1.0
BLOWS: Final[tuple[Blow, ...]] = ("kill", "kill", "kill", "freeze", "freeze", "overtake", "overtake", "overtake", "outage")


class Fate:
    """Strikes at most `budget` times."""

    def __init__(self, random: Random, odds: float, budget: int) -> None:
        self._random, self._odds = random, odds
        self.left = budget

    def draw(self, call: str) -> Blow | None:
        """Whether something happens here."""
        if self.left <= 0:
            return None
        weight = WEIGHTS.get(call, STEP_WEIGHT)
        if self._random.random() >= self._odds * weight:
            return None
        self.left -= 1
        return self._random.choice(BLOWS)
