"""Where the engine's time comes from. Only tests and the demo bring their own clock; no door can set it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]


def system_clock() -> int:
    """Now, in epoch milliseconds, UTC."""
    return time.time_ns() // 1_000_000
