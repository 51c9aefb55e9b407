"""`consentinel law diff`: folds one log under two books of the law, and explains each difference by the rows behind it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from connectors.cli.faults import BadUsage, Unanswered
from connectors.cli.law_compare import Comparison, Difference, Told, explain
from connectors.cli.output import moment, rows_table
from connectors.cli.publish import documents
from connectors.cli.session import Session, command
from connectors.http.cloudevents import millis
from connectors.http.events import topic_of
from engine.replay import Question
from engine.service import Service
from law.book import Book, Library
from law.calendars import day_at
from law.reading import PackRefused, read_pack
from law.rows import Pack
from processors.request_case import RequestCase
from processors.request_clock import clock_of, place_of
from schemas.codec import decode_as
from schemas.routed import Envelope
from schemas.topics import ControllerState, Decision

LOG_BYTES_MAX = 256 << 20
PRINTED_MAX = 100
REQUESTS = '["request",'  # how the keys of their cases begin
REQUESTS_MAX = 100_000

From = Annotated[str, typer.Option("--from", metavar="PACK@VERSION|FILE", help="The law that it is compared with.")]
To = Annotated[str, typer.Option("--to", metavar="PACK@VERSION|FILE", help="The other law.")]
LogFile = Annotated[Path | None, typer.Option("--log", help="CloudEvents as `publish` reads them, and asks of decisions.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Data folder of a stopped service: what of its log still opens.")]
Proposed = Annotated[bool, typer.Option("--proposed", help="Under --to, what is proposed counts as law.")]


def add_diff(group: typer.Typer) -> None:
    """Add `diff` to the commands about law packs."""
    command(group, "diff")(law_diff)


def law_diff(
    session: Session, from_: From, to: To, log: LogFile = None, data: DataFolder = None, proposed: Proposed = False
) -> None:  # fmt: skip
    """Decide a log again under two laws, and say what differs and why. Exit code 1: some difference has no explanation."""
    if (log is None) == (data is None):
        raise BadUsage("give --log FILE or --data DIR")
    library = session.library()
    books = _book(library, from_), _book(library, to)
    if proposed:
        books = books[0], books[1].with_proposals()
    found = _of_file(log, *books) if log is not None else _of_folder(session, data or Path(), *books)
    differences = [msgspec.to_builtins(difference) for difference in found.differences]
    document = {"from": _named(books[0], from_), "to": _named(books[1], to), **found.counts, "identical": not differences,
                "differences": differences}  # fmt: skip
    rows = [{**row, "rules": "; ".join(f"{r['rule']}: {r['from']} -> {r['to']}" for r in row["rules"])} for row in differences]
    counted = ", ".join(f"{n} {name}" for name, n in found.counts.items())
    table = [rows_table(rows[:PRINTED_MAX])] if rows else [f"identical under both: {counted}"]
    session.show(document, *table)
    if any(not difference.rules for difference in found.differences):
        raise typer.Exit(1)


class Found(NamedTuple):
    """What a comparison came to."""

    differences: list[Difference]
    counts: dict[str, int]


def _book(library: Library, text: str) -> Book:
    """The newest packs, with the one that is named in place of its own. Raises `CliFault`s."""
    try:
        if Path(text).is_file():
            pack: Pack = read_pack(Path(text))
            return Book([*(p for p in library.newest.packs if p.pack != pack.pack), pack])
        name, at, version = text.partition("@")
        if not at:
            raise BadUsage("a law is PACK@VERSION or a file of a pack")
        return library.book({name: version})
    except PackRefused as refused:
        raise Unanswered(f"a law pack is refused: {refused}") from None


def _named(book: Book, text: str) -> str:
    return f"{text}{' with proposals' if book.proposed else ''}"


def _of_file(path: Path, before: Book, after: Book) -> Found:
    comparison, events, asks, unread = Comparison(before, after), 0, 0, 0
    for told in _lines(path):
        if told is None:
            unread += 1
            continue
        try:
            comparison.fold(told)
        except msgspec.ValidationError:  # like an ask of a decision, and none
            unread += 1
            continue
        events, asks = events + (told.envelope is not None), asks + (told.ask is not None)
    counts = {"events": events, "decisions": asks, "unread": unread, "refused": comparison.refused}
    return Found(comparison.differences, counts)


def _lines(path: Path) -> Iterator[Told | None]:
    """What a file holds, in order; None for what is neither event nor ask. A line without a time has that of the one before."""
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            raise Unanswered("the log is too large: at most 256 MiB")
        data = path.read_bytes()
    except OSError:
        raise Unanswered("the log cannot be read") from None
    now_ms = 0
    for n, found in enumerate(documents(data, vcon=False), 1):
        line = found.event or {}
        time = line.get("time", line.get("at"))
        try:
            now_ms = now_ms if time is None else max(now_ms, _millis(str(time)))
            if {"type", "data", "id", "source", "controller"} <= line.keys():
                yield _event(line, now_ms)
            else:
                ask = {**line, "at": _iso(now_ms)} if {"use", "controller"} <= line.keys() else None
                yield None if ask is None else Told(now_ms, "", f"decision {n}", ask=ask)
        except ValueError:
            yield None


def _event(line: dict[str, Any], now_ms: int) -> Told:
    type_, data = str(line["type"]), line["data"]
    own_ms = _millis(str(line["time"])) if line.get("time") else now_ms
    envelope = Envelope(
        id=str(line["id"]), source=str(line["source"]), type=type_, controller=str(line["controller"]), time_ms=own_ms,
        receipt_ms=now_ms, actor=str(data.get("actor", "")) if isinstance(data, dict) else "", content_type="application/json",
        data=json.dumps(data).encode(),
    )  # fmt: skip
    return Told(now_ms, topic_of(type_), str(line["id"]), envelope)


def _of_folder(session: Session, data: Path, before: Book, after: Book) -> Found:
    """Replay what of the folder's log still opens; requests that began before are counted anew from their state."""
    service = session.stopped(data)
    if service is None:
        raise Unanswered("the folder is in use: stop its service first")
    try:
        told = (record.value for _, record in service.topic("controllers"))
        settings = [decode_as(ControllerState, value) for value in told if value is not None]
        comparison = Comparison(before, after, settings=settings, pepper=service.ring.pepper)
        events = sorted(_raw(service), key=lambda event: event.at_ms)
        replayed = {event.key for event in events if event.envelope is not None and event.envelope.type == "request.opened"}
        for event in events:
            comparison.fold(event)
        recorded = [decode_as(Decision, r.value) for _, r in service.topic("decisions") if r.value is not None]
        for decision in recorded:
            comparison.judge(decision)
        kept = [case for _, case in service.owners("case", REQUESTS, RequestCase, REQUESTS_MAX)]
        cases = [case for case in kept if case.request_id not in replayed and case.closed_ms is None]
        clocks = [difference for case in cases for difference in _clocks((before, after), case, service)]
    finally:
        service.stop()
    counts = {"events": len(events), "decisions": len(recorded), "requests": len(cases), "refused": comparison.refused}
    return Found([*comparison.differences, *clocks], counts)


def _raw(service: Service) -> Iterator[Told]:
    for topic in service.topology.tasks["intake"].inputs:
        for _, record in service.topic(topic):
            data = None if record.value is None else service.secrets.open_raw(topic, record.value)
            if data is not None:
                envelope = decode_as(Envelope, data)
                yield Told(envelope.receipt_ms, topic, record.key.decode(), envelope)


def _clocks(books: tuple[Book, Book], case: RequestCase, service: Service) -> Iterator[Difference]:
    """An open request's due time under both, from what its state says moved it."""
    place = case.place or place_of(case.regime, service.settings(case.controller).default_region)
    clocks = [clock_of(book, case.regime, case.right, place, case.received_ms) for book in books]
    pauses = [case.pauses if clock.may_pause else () for clock in clocks]
    due = [
        moment(clock.due_ms(extended=case.extended and clock.may_extend, pauses=stood))
        for clock, stood in zip(clocks, pauses, strict=True)
    ]
    if due[0] != due[1]:
        on = day_at(place, datetime.fromtimestamp(case.received_ms / 1000, UTC))
        rules = list(explain(books, [Question(clock.row.rule, place, max(on, clock.row.valid_from)) for clock in clocks]))
        yield Difference(
            at=moment(case.received_ms), what="requests.state", id=case.request_id, field="clock.due_ms", before=due[0],
            after=due[1], rules=rules,
        )  # fmt: skip


def _millis(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time needs its offset")
    return millis(at)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
