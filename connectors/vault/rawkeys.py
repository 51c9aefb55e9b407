"""Raw-hour and quarantine-day keys in Vault: a transit key each, since they end in any order; the page says which there are."""

from collections.abc import Iterable
from typing import Final

import msgspec

from connectors.vault.book import Page, RawEntry
from connectors.vault.memory import Memory, keep
from connectors.vault.transit import Transit
from engine.keyring import RAW_SPAN_MS, KeyInUse, RawClass

NUMBER_MAX: Final = (1 << 32) - 1  # four octets of a token hold it


class VaultRawKeys:
    """See `engine.keyring`. Thread-safe."""

    def __init__(self, memory: Memory, transit: Transit) -> None:
        self._memory, self._transit = memory, transit
        if memory.page.dying:
            self._bury()

    def key(self, class_: RawClass, now_ms: int) -> tuple[int, bytes]:
        """Give (number, key) to seal with now; a new one when the last has been open for its span."""
        memory = self._memory
        memory.catch_up()
        # A key from the future, by a clock set back since, counts as old too: else it would stay open until then.
        if (now := memory.raw_now.get(class_)) and abs(now_ms - now[1]) < RAW_SPAN_MS[class_]:
            return now[0], now[2]

        def opened(page: Page) -> Page:
            found = page.open_raw(class_)
            if found is not None and abs(now_ms - found.opened_ms) < RAW_SPAN_MS[class_]:
                return page
            # Drawn before it is told. What a process that dies now leaves behind is the next one's key, still unused.
            self._transit.create(name_of(page.next_raw))
            raw = (*page.closed(class_, now_ms).raw, RawEntry(page.next_raw, class_, now_ms, None))
            return msgspec.structs.replace(page, raw=raw, next_raw=page.next_raw + 1)

        with memory.lock:
            entry = memory.change(opened).open_raw(class_)
            assert entry is not None and entry.number <= NUMBER_MAX  # `opened` saw to it
            key = self._octets(entry.number)
            memory.raw_now[class_] = (entry.number, entry.opened_ms, key)
            return entry.number, key

    def by_id(self, number: int) -> bytes | None:
        """Give the raw or quarantine key of a number, None when it was destroyed or never was."""
        memory = self._memory
        memory.catch_up()
        if found := memory.raw.get(number):
            return found
        with memory.lock:
            if number >= memory.page.next_raw:
                memory.refresh()  # another process may have opened it since
            return None if memory.page.entry(number) is None else self._octets(number)

    def close(self, class_: RawClass, now_ms: int) -> None:
        """Seal no more under the open key of the class: the next use opens another."""
        self._memory.change(lambda page: page.closed(class_, now_ms))

    def destroy(self, numbers: Iterable[int]) -> None:
        """Destroy closed keys, all or (`KeyInUse`) none. Once or again: the same."""
        doomed = set(numbers)

        def dying(page: Page) -> Page:
            going = [entry for entry in page.raw if entry.number in doomed]
            if any(entry.closed_ms is None for entry in going):
                raise KeyInUse("the raw key is still sealed under")
            left = tuple(entry for entry in page.raw if entry.number not in doomed)
            return msgspec.structs.replace(page, raw=left, dying=(*page.dying, *(entry.number for entry in going)))

        if self._memory.change(dying).dying:
            self._bury()

    def _bury(self) -> None:
        """Delete the dying keys from Vault, then forget that they were: also those of a process that died at it."""
        dead = set(self._memory.page.dying)
        for number in dead:
            self._transit.delete(name_of(number))
        self._memory.change(
            lambda page: msgspec.structs.replace(page, dying=tuple(number for number in page.dying if number not in dead))
        )  # fmt: skip

    def _octets(self, number: int) -> bytes:
        raw = self._memory.raw
        return raw.get(number) or keep(raw, number, self._transit.only(name_of(number)))


def name_of(number: int) -> str:
    """The transit key of a raw or quarantine key."""
    return f"raw-{number}"
