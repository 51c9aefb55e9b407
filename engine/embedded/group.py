"""Group commit: callers that append at the same time share a transaction; each returns when its own records are durable.

The first caller leads: it writes its own records and all that wait with it, then hands the lead to the next who waits. Nobody
leads twice in a row while others wait, and there is no thread that could die unnoticed.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from engine.embedded.store import Draft
from engine.runtime import CommitLost, RuntimeFault, StoreDamaged

# Bounds how long the first of a group waits for the last. The queue itself is bounded by the number of the callers' threads.
GROUP_DRAFTS_MAX = 256

Write = Callable[[Sequence[tuple[Draft, int]]], None]


class _Ticket:
    __slots__ = ("draft", "fault", "gate", "leads", "ts_ms")

    def __init__(self, draft: Draft, ts_ms: int) -> None:
        self.draft = draft
        self.ts_ms = ts_ms
        self.fault: BaseException | None = None
        self.leads = False
        self.gate = threading.Lock()  # held until this ticket is settled or leads
        self.gate.acquire()


class GroupCommit:
    """Merges concurrent `add` calls into calls of `write`, which must be one transaction each."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._led = False

    def add(self, draft: Draft, ts_ms: int) -> None:
        """Write a draft, alone or with others; returns when it is durable. Raises what became of it."""
        ticket = _Ticket(draft, ts_ms)
        with self._lock:
            self._waiting.append(ticket)
            ticket.leads = not self._led
            self._led = True
        if not ticket.leads:
            try:
                ticket.gate.acquire()
            except BaseException:
                self._leave(ticket)
                raise
        if ticket.leads:
            self._lead(ticket)
        if ticket.fault is not None:
            raise ticket.fault

    def _lead(self, own: _Ticket) -> None:
        with self._lock:
            # The leader's own ticket is always the oldest that waits, so it is in its own group.
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_DRAFTS_MAX))]
        try:
            self._settle(group)
        finally:
            with self._lock:
                self._hand_on()
            for ticket in group:
                if ticket is not own:
                    ticket.gate.release()

    def _hand_on(self) -> None:
        self._led = bool(self._waiting)
        if self._waiting:
            heir = self._waiting[0]
            heir.leads = True
            heir.gate.release()

    def _leave(self, ticket: _Ticket) -> None:
        """A signal ended the wait: nobody may wait for a lead that this ticket would have taken."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                if ticket.leads:
                    self._hand_on()

    def _settle(self, group: list[_Ticket]) -> None:
        # In the order of their times, so that concurrent callers do not make the log look unordered.
        group.sort(key=lambda ticket: ticket.ts_ms)
        for ticket in group:
            ticket.fault = RuntimeFault("the group's leader was interrupted; the records may or may not be there")
        try:
            self._write([(ticket.draft, ticket.ts_ms) for ticket in group])
        except (CommitLost, StoreDamaged) as fault:
            if len(group) == 1 or isinstance(fault, StoreDamaged):
                for ticket in group:
                    ticket.fault = fault
                return
            # One draft that SQLite refuses must not take the others with it.
            for ticket in group:
                self._settle([ticket])
            return
        for ticket in group:
            ticket.fault = None
