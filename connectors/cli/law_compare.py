"""Two replays of one log side by side: what differs between two books of the law, and by which of their rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from connectors.cli.output import moment
from connectors.http.decisions import Ask, decide
from engine.replay import Question, Replay, Step
from law.book import Book
from law.reading import PackRefused, title
from law.rows import Row
from law.vectors import value_of
from processors.registry import processors
from processors.rejudging import rejudge
from schemas.routed import Envelope
from schemas.topics import Decision

NAMES = ("request_id", "conversation_id", "incident_id", "purpose", "list")


class Told(NamedTuple):
    """One line of a log: an event of a topic, or an ask of a decision at its time."""

    at_ms: int
    topic: str
    key: str
    envelope: Envelope | None = None
    ask: dict[str, Any] | None = None


class Difference(msgspec.Struct, kw_only=True):
    """One value that differs. `rules`: rows that were asked on the way to it, and say different things in the two books."""

    at: str
    what: str
    id: str
    field: str
    before: Any
    after: Any
    rules: list[dict[str, str]]


class Comparison:
    """Two replays side by side, a step at a time."""

    def __init__(self, before: Book, after: Book, **options: Any) -> None:
        known = processors()
        self._books = before, after
        self._replays = [Replay(book, known, **options) for book in (before, after)]
        self._last: list[dict[tuple[str, str], Any]] = [{}, {}]
        self._told: dict[tuple[str, str], dict[str, tuple[Any, Any]]] = {}
        self._asked: dict[tuple[str, str], set[Question]] = {}
        self._ever: set[Question] = set()
        self.differences: list[Difference] = []

    def fold(self, told: Told) -> None:
        """Fold an event, or decide an ask, under both. Raises `msgspec.ValidationError` for an ask that is none."""
        if told.envelope is not None:
            envelope = told.envelope
            steps = [replay.fold(told.topic, told.key, envelope) for replay in self._replays]
        else:
            decided = _decider(told)  # before either replay moves
            steps = [decided(replay) for replay in self._replays]
        self._compare(steps, told.at_ms)

    def judge(self, decision: Decision) -> None:
        """Judge a recorded verdict again under both, by what its record says the law was told."""
        steps = []
        for replay in self._replays:
            value = msgspec.to_builtins(rejudge(decision, replay.book))
            steps.append(Step({("decisions", decision.decision_id): value}, _behind(replay.take().asked, value)))
        self._compare(steps, decision.at_ms)

    @property
    def refused(self) -> int:
        """Events that neither law could use."""
        return self._replays[0].refused

    def _compare(self, steps: list[Step], at_ms: int) -> None:
        asked = steps[0].asked | steps[1].asked
        self._ever |= asked
        for last, step in zip(self._last, steps, strict=True):
            last.update(step.values)
        for key in dict.fromkeys([*steps[0].values, *steps[1].values]):
            self._asked.setdefault(key, set()).update(asked)
            values = [last.get(key) for last in self._last]
            now = dict(_differing(values[0], values[1])) if values[0] != values[1] else {}
            known, self._told[key] = self._told.get(key, {}), now
            for field, pair in now.items():
                if known.get(field) != pair:
                    self.differences.append(Difference(
                        at=moment(at_ms), what=key[0], id=_name(key, values), field=field, before=pair[0], after=pair[1],
                        # Processors remember rows by place and day, so a question may have been asked for another record.
                        rules=list(explain(self._books, self._asked[key])) or list(explain(self._books, self._ever)),
                    ))  # fmt: skip


def explain(books: tuple[Book, Book], asked: Iterable[Question]) -> Iterator[dict[str, str]]:
    """The rules that were asked and of which the two books have different rows, each once."""
    seen = set()
    for question in sorted(asked):
        rows = [_row(book, question) for book in books]
        if _said(rows[0]) == _said(rows[1]):
            continue
        words = [_words(book, row) for book, row in zip(books, rows, strict=True)]
        if (question.rule, *words) not in seen:
            seen.add((question.rule, *words))
            yield {"rule": question.rule, "place": question.place, "from": words[0], "to": words[1]}


def _row(book: Book, question: Question) -> Row | None:
    try:
        return book.row(question.rule, question.place, question.on)
    except PackRefused:
        return None  # one of the two packs does not know the rule


def _said(row: Row | None) -> Row | None:
    """What a row says, without where it was read."""
    return None if row is None else msgspec.structs.replace(row, source="", note="", certainty="X", article="")


def _words(book: Book, row: Row | None) -> str:
    return "no row" if row is None else f"{book.pack_of(row).name} {title(row)}: {value_of(row)}"


def _decider(told: Told) -> Callable[[Replay], Step]:
    """Decides an ask at its time, as the door does. Raises `msgspec.ValidationError`."""
    ask = msgspec.convert(told.ask, Ask)

    def decided(replay: Replay) -> Step:
        replay.pass_time(told.at_ms)
        marks = SimpleNamespace(on=lambda ref, use: (), blind=lambda beat_ms: False)
        door: Any = SimpleNamespace(service=replay, marks=marks, options=SimpleNamespace(fresh_secs=1.0))
        step = replay.take()
        found = decide(door, ask)
        value = {"verdict": found.verdict, "reasons": list(found.reasons), "rules": list(found.rules)}
        return Step({**step.values, ("decisions", told.key): value}, step.asked | _behind(replay.take().asked, value))

    return decided


def _behind(asked: frozenset[Question], verdict: Mapping[str, Any]) -> frozenset[Question]:
    """The questions about the rules that a verdict names; where it names none, all of them."""
    return frozenset(question for question in asked if question.rule in verdict["rules"]) or asked


def _differing(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The leaves that differ, by path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differing(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield path or "record", (_shown(path, before), _shown(path, after))


def _shown(path: str, value: Any) -> Any:
    return moment(value) if path.endswith("_ms") and isinstance(value, int) else value


def _name(key: tuple[str, str], values: list[Any]) -> str:
    """What a record is about, without whom: the first of its ids."""
    record: Mapping[str, Any] = next((value for value in values if value), {})
    return str(next((record[name] for name in NAMES if record.get(name)), key[1] if key[0] == "decisions" else ""))
