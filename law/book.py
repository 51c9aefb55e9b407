"""The law in force for a controller: which row of which pack's version holds at a place on a day. Pure, once it is read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path

from law.places import chain
from law.reading import PackRefused, check_versions
from law.rows import Kind, Pack, Row
from law.signing import RELEASE_KEY, read_folder

Others = Callable[[Mapping[str, str]], "Book"]  # versions of packs → the book with these, and the newest of every other pack
SHIPPED = Path(__file__).resolve().parent / "packs"


def version_rank(version: str) -> tuple[int, ...]:
    """The order of versions: `2026.10` is newer than `2026.9`."""
    return tuple(int(part) for part in version.split("."))


class Book:
    """One version of each of some packs. `names` is what decisions and audit entries carry.

    Raises `PackRefused` where two packs have versions of one rule at one place.
    """

    def __init__(self, packs: Iterable[Pack], *, proposed: bool = False, others: Others | None = None) -> None:
        self.packs = tuple(sorted(packs, key=lambda pack: pack.pack))
        self.proposed = proposed
        self._others = others
        self.names = " ".join(pack.name for pack in self.packs) + (" proposed" if proposed else "")
        self._versions = {pack.pack: pack.version for pack in self.packs}
        check_versions(row for pack in self.packs for row in pack.rows)
        self._rules: dict[str, dict[str, list[Row]]] = {}
        self._kinds: dict[str, list[str]] = defaultdict(list)
        self._origin: dict[tuple[object, ...], Pack] = {}
        for pack in self.packs:
            for row in pack.rows:
                self._origin[_identity(row)] = pack
                places = self._rules.setdefault(row.rule, {})
                for place in row.places:
                    places.setdefault(place, []).append(row)
                if row.rule not in self._kinds[row.kind]:
                    self._kinds[row.kind].append(row.rule)

    def row(self, rule: str, place: str, on: date, *, proposed: bool = False) -> Row | None:
        """The row of `rule` that holds at `place` on a day; the most specific place wins. None: no such rule there, then.

        With `proposed`, a proposal whose day has come goes before the law. Raises `PackRefused` for a rule of no pack here.
        """
        places = self._rules.get(rule)
        if places is None:
            raise PackRefused(rule, "unknown-rule")
        for where in chain(place):
            found = [row for row in places.get(where, ()) if row.in_force(on)]
            if proposed or self.proposed:
                found.sort(key=lambda row: row.status == "law")
            else:
                found = [row for row in found if row.status == "law"]
            if found:
                return found[0]
        return None

    def first(self, rule: str, place: str) -> Row:
        """The oldest row of `rule` at `place`: for what happened before the pack's first day. Raises `PackRefused`."""
        places = self._rules.get(rule, {})
        for where in chain(place):
            found = [row for row in places.get(where, ()) if row.status == "law"]
            if found:
                return min(found, key=lambda row: row.valid_from)
        raise PackRefused(rule, "unknown-rule", place)

    def rows(self, kind: Kind, place: str, on: date, *, proposed: bool = False, **applies: str) -> list[Row]:
        """The rows of `kind` that hold at `place` on a day, one for each rule, in the packs' order.

        A row fits `applies` when each key that both name has the same value there: a row that names no purpose is about all.
        """
        found = (self.row(rule, place, on, proposed=proposed) for rule in self._kinds.get(kind, ()))
        return [
            row for row in found
            if row is not None and row.kind == kind and all(row.applies.get(k, value) == value for k, value in applies.items())
        ]  # fmt: skip

    def version(self, pack: str) -> str:
        """The version of `pack` in this book. Raises `PackRefused`."""
        if pack not in self._versions:
            raise PackRefused(pack, "unknown-pack")
        return self._versions[pack]

    def offers(self, chosen: Mapping[str, str]) -> bool:
        """Whether these versions could be chosen together: the deployment has each, and they go with the newest of the others."""
        try:
            return self._others is not None and bool(self._others(chosen))
        except PackRefused:
            return False

    def pack_of(self, row: Row) -> Pack:
        """The pack that a row of this book is from: of one rule, several packs may have rows for different places."""
        return self._origin[_identity(row)]

    def with_proposals(self) -> "Book":
        """The same packs as if what they list as proposed were law from its day on."""
        return Book(self.packs, proposed=True, others=self._others)


def _identity(row: Row) -> tuple[object, ...]:
    """What no two rows of a book have in common, as `check_versions` sees to."""
    return row.status, row.rule, row.places[0], row.valid_from


class Library:
    """Every version of every pack that this deployment has, and the books that controllers' choices of versions make.

    `further` packs are an operator's own: none of them is in force anywhere before it is activated.
    """

    def __init__(self, packs: Iterable[Pack], further: Iterable[Pack] = ()) -> None:
        self._packs: dict[str, dict[str, Pack]] = {}
        self._newest: dict[str, str] = {}
        self._books: dict[tuple[tuple[str, str], ...], Book] = {}
        for pack in packs:
            self._add(pack)
            self._newest[pack.pack] = max(self._packs[pack.pack], key=version_rank)
        for pack in further:
            self._add(pack)
        self.newest = self.book({})

    def packs(self) -> list[Pack]:
        """Every pack and version, by name, oldest first."""
        return [self._packs[name][v] for name in sorted(self._packs) for v in sorted(self._packs[name], key=version_rank)]

    def pack(self, name: str, version: str) -> Pack:
        """A version of a pack. Raises `PackRefused`: `unknown-pack`, `unknown-version`."""
        if name not in self._packs:
            raise PackRefused(name, "unknown-pack")
        if version not in self._packs[name]:
            raise PackRefused(f"{name}@{version}", "unknown-version")
        return self._packs[name][version]

    def book(self, chosen: Mapping[str, str]) -> Book:
        """The book of the chosen versions, and the newest of every other pack. Raises `PackRefused`."""
        key = tuple(sorted(chosen.items())) if chosen else ()
        if key not in self._books:
            packs = [self.pack(name, version) for name, version in {**self._newest, **chosen}.items()]
            self._books[key] = Book(packs, others=self.book)
        return self._books[key]

    def _add(self, pack: Pack) -> None:
        versions = self._packs.setdefault(pack.pack, {})
        if pack.version in versions:
            raise PackRefused(pack.name, "twice")
        versions[pack.version] = pack


@lru_cache(maxsize=1)
def shipped_library() -> Library:
    """The packs that come with this release, read once a process. Raises `PackRefused`."""
    return Library(read_folder(SHIPPED, [RELEASE_KEY]))


def shipped() -> Book:
    """The newest version of each shipped pack."""
    return shipped_library().newest
