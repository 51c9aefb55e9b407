"""What every command that stays shares: how it logs, and how it is told to stop."""

import signal
from types import FrameType

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Stopper:
    """Takes SIGTERM and SIGINT until a server does, and after it has: a stop that comes while opening is a clean one too."""

    def __init__(self) -> None:
        self.told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.told = True
