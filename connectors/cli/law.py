"""Commands about the law packs: what holds where and when, whether a pack is sound, when something is due, who signed it."""

import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import facts_table, rows_table
from connectors.cli.session import Session, command
from connectors.cli.watch import write_private
from engine.notes import Signer
from law.book import Book
from law.calendars import PlaceUnknown, is_place
from law.counting import PeriodUnusable
from law.reading import PackRefused, read_pack
from law.rows import Pack, Row
from law.signing import ALGORITHM, RELEASE_KEY, SUFFIX, digest_of, read_signed, statement_of, verify
from law.vectors import count, moment_at, pauses_at, run_vectors, said, value_of

law = typer.Typer(no_args_is_help=True, help="The law packs: rows with places, dates and sources. Nothing here is legal advice.")

T = TypeVar("T")
PRIVATE = "PRIVATE+KEY"
SEED_BYTES = 32
SHOWN = ("rule", "places", "value", "article", "certainty", "valid_from", "valid_to", "status", "pack")

Place = Annotated[str, typer.Option("--place", help="ISO 3166 code: DE, US-CA, GB-ENG; or EU.")]
AnyPlace = Annotated[str | None, typer.Option("--place", help="What holds there; else every place.")]
On = Annotated[str | None, typer.Option("--on", metavar="DATE", help="The day; else today.")]
Rule = Annotated[str, typer.Option("--rule", help="A rule's id, as `law list` shows it.")]
Received = Annotated[str, typer.Option("--received", metavar="TIME", help="A date or time; without offset: there.")]
Paused = Annotated[list[str] | None, typer.Option("--paused", metavar="FROM/TO", help="When the clock stood still; repeatable.")]
Extended = Annotated[bool, typer.Option("--extended", help="With the extension that the rule allows.")]
Proposed = Annotated[bool, typer.Option("--proposed", help="As if what is only proposed were law from its day on.")]
Key = Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key, as `law key` wrote it.")]


@command(law, "list")
def law_list(session: Session, place: AnyPlace = None, on: On = None, proposed: Proposed = False) -> None:
    """List the rows in force, with article, source and how sure each is: V read, S secondary, M memory, X computed."""
    library = session.library()
    if place is not None and not is_place(place):
        raise _no_place()
    book = library.newest.with_proposals() if proposed else library.newest
    day = datetime.now(UTC).date() if on is None else _day(on)
    rows = [_shown(row, pack) for pack in book.packs for row in _held(book, pack, place, day)]
    packs = [{"pack": p.pack, "version": p.version, "title": p.title, "sha256": digest_of(p)} for p in library.packs()]
    document = {"on": day.isoformat(), "place": place, "rows": rows, "packs": packs}
    session.show(document, rows_table(rows, SHOWN), rows_table(packs))


@command(law, "check")
def law_check(session: Session, file: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None) -> None:
    """Check a pack, or all that are there, and run its own vectors. Exit code 1: something is wrong; the row is named."""
    try:
        packs = session.library(wrap=False).packs() if file is None else [_read(file, session.settings.law.keys)]
        checked = [
            {"pack": pack.name, "rows": len(pack.rows), "vectors": run_vectors(pack), "sha256": digest_of(pack)}
            for pack in packs
        ]  # fmt: skip
    except PackRefused as wrong:
        found = {"ok": False, "row": wrong.row, "reason": wrong.reason, "detail": wrong.detail}
        session.show(found, facts_table(found))
        raise typer.Exit(1) from None
    session.show({"ok": True, "packs": checked}, rows_table(checked))


@command(law, "due")
def law_due(
    session: Session, rule: Rule, received: Received, place: Place, paused: Paused = None, extended: Extended = False,
    proposed: Proposed = False,
) -> None:  # fmt: skip
    """Show when something is due, and how that was counted."""
    book = session.library().newest
    book = book.with_proposals() if proposed else book
    try:
        since = _time(lambda: moment_at(received, place), "--received")
        pauses = _time(lambda: pauses_at([_pair(text) for text in paused or []], place), "--paused")
        row, found = count(book, rule, since, place, pauses, extended=extended)
    except PlaceUnknown:
        raise _no_place() from None
    except PeriodUnusable as wrong:
        raise BadUsage(str(wrong)) from None
    except PackRefused as wrong:
        raise Refused(str(wrong)) from None
    document = {"due": said(found), "steps": [*_steps(book, row, paused=bool(pauses)), *found.steps]}
    session.show(document, facts_table({"due": document["due"]}), *document["steps"])


@command(law, "key")
def law_key(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE")],
    name: Annotated[str, typer.Option("--name", help="Who signs: a name like example.com/law.")],
) -> None:  # fmt: skip
    """Draw a key to sign packs with: its private half goes into FILE (mode 0600), its public half is shown for `law.keys`."""
    if file.exists():
        raise Refused("that file exists: a key is never written over")
    seed = os.urandom(SEED_BYTES)
    try:
        signer = Signer(name, seed)
    except ValueError:
        raise BadUsage("--name holds neither spaces nor plus") from None
    key_id = signer.vkey.split("+")[1]
    write_private(file, f"{PRIVATE}+{name}+{key_id}+{b64encode(ALGORITHM + seed).decode()}\n")
    session.show({"vkey": signer.vkey}, signer.vkey)


@command(law, "sign")
def law_sign(session: Session, packs: Annotated[list[Path], typer.Argument(metavar="PACK...")], key: Key) -> None:
    """Sign packs: a note of name and content hash beside each (NAME.sig). It is checked first, with its vectors."""
    signer = _signer(key)
    done = []
    for path in packs:
        try:
            pack = read_pack(path)
            run_vectors(pack)
            note = signer.sign(statement_of(pack))
            verify(pack, note, [signer.vkey])
        except PackRefused as wrong:
            raise Refused(str(wrong)) from None
        path.with_suffix(SUFFIX).write_text(note, encoding="utf-8")
        done.append({"pack": pack.name, "sha256": digest_of(pack), "signed_by": signer.name})
    session.show({"signed": done}, rows_table(done))


def _held(book: Book, pack: Pack, place: str | None, day: date) -> list[Row]:
    if place is None:
        return [row for row in pack.rows if row.in_force(day) and (book.proposed or row.status == "law")]
    rules = dict.fromkeys(row.rule for row in pack.rows)
    return [row for rule in rules if (row := book.row(rule, place, day)) is not None]


def _shown(row: Row, pack: Pack) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(row)
    return {**found, "value": value_of(row), "valid_to": found.get("valid_to"), "pack": pack.name}


def _read(file: Path, keys: list[str]) -> Pack:
    """A pack from a file. Where a note stands beside it, it must be a trusted key's; one without may be in the making."""
    if not file.is_file():
        raise Unanswered("there is no such file")
    return read_signed(file, [RELEASE_KEY, *keys]) if file.with_suffix(SUFFIX).exists() else read_pack(file)


def _no_place() -> BadUsage:
    return BadUsage("--place: no ISO 3166 code of a country or of one's subdivision, nor EU")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadUsage("--on is no date: it reads 2026-11-20") from None


def _steps(book: Book, row: Row, *, paused: bool) -> list[str]:
    """Which row it is, in words."""
    mark = {"V": "read in the primary text", "S": "from a secondary source", "M": "from memory", "X": "computed"}[row.certainty]
    at = "+".join(row.places)
    steps = [f"{book.pack_of(row).name}: {row.rule} at {at}, {row.article}, in force since {row.valid_from} ({mark})"]
    if row.status == "proposed":
        steps.append("this row is proposed, not law")
    if paused:
        steps.append(f"its clock may stand still by {'statute' if row.pauses == 'statutory' else 'practice of the authorities'}")
    return steps


def _time(read: Callable[[], T], option: str) -> T:
    """What an option's text says. Raises `BadUsage`, `PlaceUnknown`."""
    try:
        return read()
    except PlaceUnknown:
        raise
    except ValueError:
        raise BadUsage(f"{option} is neither a date nor a time of ISO 8601") from None


def _pair(text: str) -> tuple[str, str]:
    since, slash, to = text.partition("/")
    if not slash:
        raise BadUsage("--paused is FROM/TO")
    return since, to


def _signer(key: Path) -> Signer:
    try:
        head, word, name, _, encoded = key.read_text(encoding="utf-8").strip().split("+", 4)
        seed = b64decode(encoded, validate=True)
        if f"{head}+{word}" == PRIVATE and seed[:1] == ALGORITHM:
            return Signer(name, seed[1:])
    except (OSError, ValueError):
        pass
    raise Unanswered("the key file cannot be read: it is none that `law key` wrote")
