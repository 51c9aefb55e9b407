"""The command `scan`: looks for a person in everything that rests, before an erasure (`--expect-all`) and after it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage, Unanswered
from connectors.cli.output import facts_table, rows_table
from connectors.cli.recording import Record, read_report
from connectors.cli.rings import ring_of
from connectors.cli.session import DATA, Identifiers, Session, command, identifiers_of
from connectors.cli.watch import write_private
from engine.clock import system_clock
from engine.filering import FileRing
from engine.runtime import FolderInUse
from engine.scan.chunks import Found
from engine.scan.faults import NeedleUnfit
from engine.scan.look import look
from engine.scan.needles import Needle, Needles
from engine.scan.report import CONTROL_BYTES_MAX, SALT_BYTES, Control, Report, control_of, report_of
from engine.scan.sources import Source, everything, folder, held
from engine.scan.tokens import Opener
from engine.sealing import subject_ref
from schemas.identifiers import NotAnIdentifier, normalise

WORDS_BYTES_MAX = 8 << 20
REDIS_SECS_MAX = 30.0
ROWS_MAX = 60
VERDICTS = {
    "clean": "Clean: no needle stands anywhere that was looked at.",
    "found": "NOT clean: a needle stands where it must not.",
    "incomplete": "NOT known: nothing was found, but not everything could be read.",
    "uncontrolled": "NOT known: nothing was found, but the control never found some of these needles either.",
    "all_found": "The control holds: every needle was found.",
    "missing": "The control does NOT hold: some needle was not found.",
}

Words = Annotated[list[Path] | None, typer.Option("--words", metavar="FILE", help="Phrases, one a line; repeatable.")]
Controllers = Annotated[
    list[str] | None, typer.Option("--controller", help="Look for the identifiers' subject_ref with this controller; repeatable.")
]
Region = Annotated[str | None, typer.Option("--region", help="Country of national numbers, e.g. US.")]
Folders = Annotated[list[Path] | None, typer.Option("--data", help="Data folder of a stopped service or worker; repeatable.")]
LogDirs = Annotated[list[Path] | None, typer.Option("--log-dir", help="A Kafka broker's log.dirs; repeatable.")]
Dumps = Annotated[list[Path] | None, typer.Option("--redis-dump", help="An RDB file, or Redis' folder; repeatable.")]
Paths = Annotated[list[Path] | None, typer.Option("--path", help="Any file or folder: exports, a warehouse; repeatable.")]
Ring = Annotated[Path | None, typer.Option("--ring", help="The key ring; else CONSENTINEL_KEYS__RING, else that of --data.")]


def add_scan(app: typer.Typer) -> None:
    """Add `scan`."""
    command(app, "scan")(scan)


def scan(
    session: Session, identifier: Identifiers = None, words: Words = None, controller: Controllers = None, region: Region = None,
    data: Folders = None, log_dir: LogDirs = None,
    kafka: Annotated[str | None, typer.Option("--kafka", metavar="HOST:PORT", help="The prefix's topics, over the wire.")] = None,
    redis_dump: Dumps = None,
    redis: Annotated[bool, typer.Option("--redis", help="The running Redis of CONSENTINEL_REDIS__URL.")] = False,
    path: Paths = None, ring: Ring = None,
    no_ring: Annotated[bool, typer.Option("--no-ring", help="Open nothing: only what stands in plain is found.")] = False,
    expect_all: Annotated[
        bool, typer.Option("--expect-all", help="The control before an erasure: exit code 0 when every needle was found.")
    ] = False,
    control: Annotated[
        Path | None, typer.Option("--control", help="With --expect-all the control's file to write; else the one to go by.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Put the result on record with this request, at --url.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="With --request: the report of an earlier scan, instead of a new one.")
    ] = None,
) -> None:  # fmt: skip
    """Look for a person everywhere, opening all that living keys open. Exit code 1: found, or not known to be clean."""
    folders = data or []
    record = None if request is None else Record(session.door(), request)
    if report is not None:
        if record is None or any((identifier, words, controller, folders, log_dir, kafka, redis_dump, redis, path)):
            raise BadUsage("--report takes --request, and nothing to look for: it says what an earlier scan has found")
        _end(session, read_report(report), record)
        return
    _check(folders, [*(log_dir or ()), *(redis_dump or ()), *(path or ())])
    earlier = _read_control(control) if control is not None and not expect_all else None
    try:
        with held(folders):
            alive = [] if no_ring else _alive(session, ring, folders)
            wanted = _needles(identifier, words, controller or [], region, dict(alive))
            sources = [
                *(folder(one, "data") for one in folders),
                *(folder(one, "kafka_log", session.settings.kafka.prefix) for one in log_dir or ()),
                *((_cluster(session, kafka),) if kafka is not None else ()),
                *(folder(one, "redis_dump") for one in redis_dump or ()), *((_redis(session),) if redis else ()),
                *(folder(one, "path") for one in path or ()),
            ]  # fmt: skip
            if not sources:
                raise BadUsage("say where to look: --data, --log-dir, --kafka, --redis-dump, --redis, --path")
            looked = look(Needles(wanted), Opener(alive), everything(sources))
    except NeedleUnfit as wrong:
        raise BadUsage(str(wrong)) from None
    except FolderInUse:
        raise Unanswered(
            "the folder is in use: stop its service or worker, or scan a snapshot of the file system (its memory is not scanned)"
        ) from None
    names = [source.name for source in sources]
    found = report_of(
        wanted, looked, names, system_clock(), earlier, expect_all=expect_all, epochs=_epochs(alive, controller or [])
    )
    if expect_all and control is not None:
        write_private(control, msgspec.json.encode(control_of(found, wanted, os.urandom(SALT_BYTES))).decode() + "\n")
    _end(session, found, record)


def _end(session: Session, report: Report, record: Record | None) -> None:
    """Put it on record, where that was asked for, whatever it says; show it."""
    if record is not None:
        record.put(report)
    _show(session, report)
    if not report.good:
        raise typer.Exit(1)


def _epochs(alive: list[tuple[str, bytes]], controllers: list[str]) -> str | None:
    """The lowest and the highest epoch of the key-encryption keys that live (`kek/CONTROLLER/SHARD/EPOCH`)."""
    names = (name.removeprefix("kek/").rsplit("/", 2) for name, _ in alive if name.startswith("kek/"))
    living = [int(epoch) for controller, _, epoch in names if not controllers or controller in controllers]
    return f"{min(living)}-{max(living)}" if living else None


def _check(folders: list[Path], others: list[Path]) -> None:
    if any(not one.is_dir() for one in folders):
        raise Unanswered("a data folder is not there")
    if any(not one.exists() for one in others):
        raise Unanswered("a folder or file to look at is not there")


def _alive(session: Session, ring: Path | None, folders: list[Path]) -> list[tuple[str, bytes]]:
    """All living keys. Raises `RingFault`, `BadUsage`."""
    settings = session.settings.keys
    beside = next((one for one in folders if one.with_name(one.name + ".ring").exists()), None)
    if ring is None and settings.ring is None and settings.vault_url is None and beside is None:
        raise BadUsage("no key ring is named: give --ring, or --no-ring where nothing can be sealed")
    keys = FileRing(ring, create=False) if ring is not None else ring_of(settings, beside or DATA, create=False)
    try:
        return list(keys.all_keys_alive())
    finally:
        keys.close()


def _needles(
    identifiers: list[str] | None, words: list[Path] | None, controllers: list[str], region: str | None, alive: dict[str, bytes]
) -> list[Needle]:  # fmt: skip
    """Identifiers, then phrases, then refs, numbered from 1 as they were given. Raises `BadUsage`."""
    found: list[Needle] = []
    for given in identifiers_of(identifiers, needed=False):
        number = len(found) + 1
        try:
            normal = normalise(given["kind"], given["value"], region)  # type: ignore[arg-type]
        except NotAnIdentifier as wrong:
            raise BadUsage(f"--identifier number {number} is none of its kind: {wrong.code}") from None
        found.append(Needle(number, given["kind"], normal))
    named = list(found)
    for phrase in (line for file in words or () for line in _lines(file)):
        found.append(Needle(len(found) + 1, "words", phrase))
    for controller in controllers:
        pepper = alive.get(f"pepper/{controller}")
        if pepper is None:
            raise BadUsage("--controller: the ring knows no such controller")
        for one in named:
            found.append(Needle(len(found) + 1, "ref", subject_ref(pepper, one.kind, one.text), one.number))
    if not found:
        raise BadUsage("say what to look for: --identifier kind:value, --words FILE")
    return found


def _lines(file: Path) -> Iterator[str]:
    try:
        data = file.read_bytes()
        if len(data) > WORDS_BYTES_MAX:
            raise Unanswered("a file of words is too large")
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError):
        raise Unanswered("a file of words cannot be read") from None
    yield from (line.strip() for line in lines if line.strip())


def _read_control(file: Path) -> Control:
    try:
        data = file.read_bytes()
        if len(data) <= CONTROL_BYTES_MAX:
            return msgspec.json.decode(data, type=Control)
    except (OSError, msgspec.DecodeError):
        pass
    raise Unanswered("the control's file cannot be read, or is none")


def _cluster(session: Session, kafka: str) -> Source:
    from engine.kafka.clients import ConfluentClients  # noqa: PLC0415 -- few commands need a client of Kafka
    from engine.kafka.names import Names  # noqa: PLC0415
    from engine.scan.wire import cluster  # noqa: PLC0415
    from engine.topology import default_topology  # noqa: PLC0415

    connection = session.settings.kafka.connection(kafka)
    topology = default_topology()
    names = Names(connection.prefix, topology.task_specs())
    return Source("kafka", lambda: cluster(ConfluentClients(connection, names), names, topology.topics))


def _redis(session: Session) -> Source:
    from connectors.redis import RedisConnection  # noqa: PLC0415 -- few commands need Redis
    from connectors.redis.connection import RedisImpossible, translated  # noqa: PLC0415
    from engine.deployment import Unreachable  # noqa: PLC0415
    from engine.scan.rdb import server  # noqa: PLC0415

    settings, prefix = session.settings.redis, session.settings.kafka.prefix
    reach = RedisConnection(url=settings.needed_url(), password_file=settings.password_file, prefix=prefix)

    def read() -> Iterator[Found]:
        try:
            client = reach.client(REDIS_SECS_MAX, lambda link: link.on_connect())
            with translated():
                yield from server(client, f"{prefix}consentinel:" if not prefix else prefix)
            client.connection_pool.disconnect()
        except RedisImpossible as wrong:
            raise BadUsage(str(wrong)) from None
        except Unreachable as away:
            raise Unanswered(str(away)) from None

    return Source("redis", read)


def _show(session: Session, report: Report) -> None:
    document: dict[str, Any] = msgspec.to_builtins(report)
    summary = [{name: row[name] for name in ("number", "kind", "of", "outside", "kept", "expiring", "control")}
               for row in document["needles"]]  # fmt: skip
    places = [
        {"needle": row["number"], **where, "how": " ".join(where["how"])} for row in document["needles"] for where in row["where"]
    ]
    looked_at = document["looked_at"]
    tables: list[Any] = [facts_table({**looked_at, "digest": document["digest"]}), rows_table(summary[:ROWS_MAX])]
    if places:
        tables.append(rows_table(places[:ROWS_MAX]))
    if document["not_read"]:
        tables.append(rows_table(document["not_read"][:ROWS_MAX]))
    if max(len(summary), len(places), len(document["not_read"])) > ROWS_MAX:
        tables.append("and more: --output json lists all of it")
    session.show(document, *tables, VERDICTS[report.verdict])
