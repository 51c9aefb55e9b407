r"""Where everything stands in Redis: one table, under the deployment's prefix (which may be empty).

    PREFIX consentinel:unit:TASK/PARTITION    a hash: the state of one unit, and with it what says how good it is
        KEY            value, as in the changelog; KEY begins with `s`, `k`, `m` or `u` (`engine/layout.py`)
        \0id           which changelog this is a copy of: it is another one when the topic was made anew
        \0next         the changelog offset that it stands at: everything before has been applied
        \0beat         everything received up to then (epoch ms) is in it; missing or 0: nobody knows
        \0goal         the changelog's end when the copy was begun: no beat before it counts
        \0since        when the copy was begun (epoch ms)
    PREFIX consentinel:keys:TASK/PARTITION    a sorted set: the KEYs in order, and `\0` while the set is whole
    PREFIX consentinel:board:OWNER            a hash: notes about OWNER: id → until (8 octets, big-endian epoch ms) text

State and its position are one key, so that Redis cannot lose one of them: an evicted, expired or deleted unit has no beat.
"""

from typing import Final

from engine.kafka.names import Unit

ID, NEXT, BEAT, GOAL, SINCE = b"\0id", b"\0next", b"\0beat", b"\0goal", b"\0since"
WHOLE: Final = b"\0"
KEPT: Final = (b"s", b"k", b"m", b"u")  # alarms, positions and what is the runtime's own are of no use to a reader


class Keys:
    """Redis keys of one deployment."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}consentinel:"

    def unit(self, unit: Unit) -> str:
        """The hash of a unit's state."""
        return f"{self._prefix}unit:{unit.task}/{unit.partition}"

    def order(self, unit: Unit) -> str:
        """The sorted set of a unit's keys."""
        return f"{self._prefix}keys:{unit.task}/{unit.partition}"

    def board(self, owner: str) -> str:
        """The notes about an owner."""
        return f"{self._prefix}board:{owner}"
