"""What is planted is found, in each writing and in each source: without this a scan's silence would mean nothing."""

from __future__ import annotations

import base64
import gzip
import json
import os
import quopri
import shutil
import sqlite3
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from rocksdict import DBCompressionType, Options, Rdict

from engine.filering import FileRing
from engine.scan.chunks import OVERLAP_BYTES, WINDOW_BYTES, Chunk, Found, Place, Unread, windows
from engine.scan.files import Walk
from engine.scan.look import Looked, look
from engine.scan.needles import Needle, Needles
from engine.scan.report import standing_of
from engine.scan.tokens import Opener
from engine.secrets import Secrets
from tests.harness import START_MS

WORDS = "the grëy parrot of Ann Example"
NUMBER = "+12025550123"
NEEDLES = [Needle(1, "words", WORDS), Needle(2, "tel", NUMBER)]
SPOKEN = WORDS.replace("Ann", "ANN").encode()
FORMATTED = b"call (202) 555-0123 now"
WRITINGS: dict[str, bytes] = {
    "plain": SPOKEN,
    "UTF-16 LE": WORDS.encode("utf-16-le"),
    "UTF-16 BE": WORDS.encode("utf-16-be"),
    "Latin-1": WORDS.encode("latin-1"),
    "hex": WORDS.encode().hex().encode(),
    "HEX": WORDS.encode().hex().upper().encode(),
    "base64": base64.b64encode(b"x" + WORDS.encode() + b"yy"),
    "base64 URL-safe": base64.urlsafe_b64encode(b"\xff\xfe" + WORDS.encode() + b"\xfe"),
    "base64 in lines": base64.encodebytes(os.urandom(40) + WORDS.encode() + os.urandom(40)),
    "base64 in base64": base64.b64encode(b"Q" + base64.b64encode(b"abc " + WORDS.encode())),
    "JSON": json.dumps({"said": f'"{WORDS}"'}).encode(),
    "JSON in JSON": json.dumps(json.dumps({"said": WORDS})).encode(),
    "percent": quote(WORDS).encode(),
    "form": quote(WORDS).replace("%20", "+").encode(),
    "quoted-printable": quopri.encodestring(WORDS.encode(), quotetabs=True),
    "gzip in base64": base64.b64encode(gzip.compress(WORDS.encode())),
    "a number": b"+12025550123",
    "a number, formatted": FORMATTED,
    "a number, dotted": b"202.555.0123",
    "a number, UTF-16": "+1 (202) 555 0123".encode("utf-16-le"),
    "a number, base64": base64.b64encode(b"tel:" + FORMATTED),
    "a number, percent": b"tel=%2B1%20202%20555%200123",
}
AROUND = (b"{\xf0\x01 ", b" \xf0}")


def scanned(root: Path, ring: FileRing | None = None, needles: Iterable[Needle] = NEEDLES) -> Looked:
    alive = list(ring.all_keys_alive()) if ring is not None else []
    return look(Needles(needles), Opener(alive), Walk(root, "test").found)


def found(looked: Looked) -> set[int]:
    assert not looked.unread
    return {at.needle for at in looked.found}


def db_of(folder: Path, *settings: str) -> sqlite3.Connection:
    db = sqlite3.connect(folder / "some.db", isolation_level=None)
    for setting in ("secure_delete=OFF", *settings):
        db.execute(f"PRAGMA {setting}").fetchall()
    db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    db.executemany("INSERT INTO t VALUES (?, ?)", [(n, b"filler %d" % n) for n in range(20)])
    return db


def in_cell(folder: Path, payload: bytes) -> None:
    with closing(db_of(folder)) as db:
        db.execute("INSERT INTO t VALUES (99, ?)", (payload,))


def in_overflow(folder: Path, payload: bytes) -> None:
    """Across two pages: no run of the file holds it. Of 12,000 octets some 3,800 stand in the first page."""
    with closing(db_of(folder, "page_size=4096")) as db:
        value = b"\xf1" * (3_815 - len(payload) // 2) + payload
        db.execute("INSERT INTO t VALUES (99, ?)", (value + b"\xf2" * (12_000 - len(value)),))
    assert payload not in (folder / "some.db").read_bytes()


def in_slack(folder: Path, payload: bytes) -> None:
    with closing(db_of(folder)) as db:
        db.execute("INSERT INTO t VALUES (99, ?)", (payload,))
        db.execute("DELETE FROM t WHERE k = 99")


def in_freelist(folder: Path, payload: bytes) -> None:
    with closing(db_of(folder)) as db:
        db.execute("CREATE TABLE gone (v BLOB)")
        db.execute("INSERT INTO gone VALUES (?)", (payload,))
        db.execute("DROP TABLE gone")
        assert db.execute("PRAGMA freelist_count").fetchone()[0] > 0


def in_superseded_frame(folder: Path, payload: bytes) -> None:
    live = folder.with_name("live")
    live.mkdir()
    with closing(db_of(live, "journal_mode=WAL", "secure_delete=ON", "wal_autocheckpoint=0")) as db:
        db.execute("INSERT INTO t VALUES (99, ?)", (payload,))
        db.execute("UPDATE t SET v = ? WHERE k = 99", (b"\0" * len(payload),))
        for name in ("some.db", "some.db-wal"):
            shutil.copy(live / name, folder / name)


def batch(payload: bytes, codec: int, pack: Callable[[bytes], bytes]) -> bytes:
    """A record batch of version 2 with three records, the second of which has `payload` as its value."""

    def part(data: bytes) -> bytes:
        return zigzag(len(data)) + data

    def record(n: int, value: bytes) -> bytes:
        body = b"\0" + zigzag(0) + zigzag(n) + part(b"k%d" % n) + part(value) + zigzag(1) + part(b"audit") + part(b"o#1")
        return zigzag(len(body)) + body

    body = pack(b"".join(record(n, value) for n, value in enumerate((b"first " * 9, payload, b"last " * 9))))
    after = struct.pack(">hiqqqhii", codec, 2, START_MS, START_MS, -1, -1, -1, 3) + body
    return struct.pack(">qiiBI", 0, len(after) + 9, 0, 2, zlib.crc32(after)) + after


def zigzag(value: int) -> bytes:
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def in_segment(folder: Path, payload: bytes) -> None:
    partition = folder / "calls-0"
    partition.mkdir()
    segment = batch(b"another", 0, bytes) + batch(payload, 1, gzip.compress) + bytes(4_096)
    (partition / "00000000000000000000.log").write_bytes(segment)


def in_superseded_table(folder: Path, payload: bytes, codec: DBCompressionType | None = None) -> None:
    options = Options(raw_mode=True)
    options.set_compression_type(codec or DBCompressionType.snappy())
    options.set_disable_auto_compactions(True)
    filler = {b"s%05d" % n: b"the same words again and again " * 3 for n in range(300)}
    with closing(Rdict(str(folder / "db"), options)) as db:
        for key, value in (filler | {b"s00100": payload + b" " + payload}).items():
            db[key] = value
        db.flush()
        db[b"s00100"] = b"other"
        db.flush()
        assert db[b"s00100"] == b"other"
    for log in (folder / "db").glob("*.log"):
        log.unlink()


def in_gzip_file(folder: Path, payload: bytes) -> None:
    (folder / "export.json.gz").write_bytes(gzip.compress(b"x" * 70_000) + gzip.compress(payload))


def in_zip_of_gzip(folder: Path, payload: bytes) -> None:
    with zipfile.ZipFile(folder / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.gz", gzip.compress(payload))


def across_an_edge(folder: Path, payload: bytes) -> None:
    (folder / "big").write_bytes(os.urandom(WINDOW_BYTES - len(payload) // 2) + payload + os.urandom(OVERLAP_BYTES * 2))


PLANTERS = [
    in_cell, in_slack, in_freelist, in_superseded_frame, in_segment, in_superseded_table, in_gzip_file, in_zip_of_gzip,
    across_an_edge,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTERS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("writing", WRITINGS)
def test_a_needle_is_found_in_each_writing_in_each_source(tmp_path: Path, plant: Callable[..., None], writing: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    plant(folder, AROUND[0] + WRITINGS[writing] + AROUND[1])
    assert found(scanned(folder)) == {2 if writing.startswith("a number") else 1}


@pytest.mark.parametrize("plant", PLANTERS, ids=lambda plant: plant.__name__)
def test_what_was_not_planted_is_not_found(tmp_path: Path, plant: Callable[..., None]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    plant(folder, os.urandom(200) + SPOKEN[:-1] + b"_ (202) 555-0124 " + os.urandom(200))
    assert found(scanned(folder)) == set()


def test_a_value_across_two_pages_of_a_database_is_one_value(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    in_overflow(folder, SPOKEN)
    assert found(scanned(folder)) == {1}


@pytest.mark.parametrize("codec", ["none", "snappy", "zlib", "bz2", "lz4", "lz4hc", "zstd"])
def test_blocks_of_every_codec_are_read(tmp_path: Path, codec: str) -> None:
    in_superseded_table(tmp_path, b"{" + SPOKEN + b"}", getattr(DBCompressionType, codec)())
    assert found(scanned(tmp_path)) == {1}


def test_every_pair_that_the_library_reads_is_read_from_the_files(tmp_path: Path) -> None:
    pairs = {b"s%06d\0kind\0" % n: os.urandom(n % 90) + b"words " * (n % 7) for n in range(20_000)}
    options = Options(raw_mode=True)
    with closing(Rdict(str(tmp_path / "db"), options)) as db:
        for key, value in pairs.items():
            db[key] = value
        del db[b"s000005\0kind\0"]
        db.flush()
    chunks = Counter(chunk.data for chunk in Walk(tmp_path, "test").found() if isinstance(chunk, Chunk) and chunk.whole)
    left = [key for key, value in pairs.items() if not chunks[key] or (value and not chunks[value] and key != b"s000005\0kind\0")]
    assert left == []


def test_what_is_sealed_is_opened_wherever_it_rests(tmp_path: Path) -> None:
    ring = FileRing(tmp_path / "ring", create=True)
    secrets = Secrets(ring, os.urandom)
    wrapped, key = secrets.mint("acme", "sub_" + "a" * 26, "c1")
    field = secrets.seal_field(key, base64.b64encode(b"he said " + SPOKEN).decode(), "lines.text", b"\0" * 8)
    inner = b'{"data":"' + base64.b64encode(b"\x02\x11" + field) + b'"}'
    original = secrets.seal_raw("quarantine", inner + wrapped.wrapped, START_MS, "quarantine")
    for n, plant in enumerate((in_cell, in_slack, in_segment, in_superseded_table, across_an_edge)):
        folder = tmp_path / str(n) / "data"
        folder.mkdir(parents=True)
        plant(folder, b"\x93" + original)
        looked = scanned(folder, ring)
        assert found(looked) == {1}, plant.__name__
        assert any("opened" in at.how and at.how.count("base64") == 2 for at in looked.found)
    ring.close_raw("quarantine", START_MS)
    ring.destroy_raw([number for number, *_ in ring.raw_keys()])
    assert found(scanned(tmp_path / "0" / "data", ring)) == set(), "its key is gone"
    ring.close()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("plant", [in_segment, in_superseded_table, in_gzip_file, in_zip_of_gzip, in_cell])
def test_what_cannot_be_read_is_told_of(tmp_path: Path, plant: Callable[..., None], damage: str) -> None:
    plant(tmp_path, SPOKEN)
    path = max(
        (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "LOG"), key=lambda p: (p.suffix == ".sst", p.stat().st_size)
    )
    data = bytearray(path.read_bytes()).rstrip(b"\0")
    if damage == "cut":
        del data[len(data) * 2 // 3 :]
        if path.suffix == ".sst":
            data += path.read_bytes()[-53:]
    else:
        middle = len(data) // 2
        data[middle : middle + 40] = b"\xa5" * 40
    if path.suffix == ".db":
        data[100:140] = b"\xa5" * 40
    path.write_bytes(data)
    assert any(isinstance(one, Unread) for one in Walk(tmp_path, "test").found())


def test_a_parquet_file_is_never_called_read(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert sum(scanned(tmp_path).unread.values()) == 1


@pytest.mark.parametrize(("plant", "kinds"), [(in_cell, {"table"}), (in_slack, {"file"}), (in_superseded_table, {"state"})])
def test_a_ref_in_raw_bytes_is_told_only_where_no_value_explains_it(
    tmp_path: Path, plant: Callable[..., None], kinds: set[str]
) -> None:  # fmt: skip
    ref = "sub_abcdefghijklmnopqrstuvwx2y"
    plant(tmp_path, b'["' + ref.encode() + b'","marketing"]')
    assert {at.place.kind for at in scanned(tmp_path, needles=[Needle(1, "ref", ref)]).found} == kinds


def test_names_of_files_are_searched_and_never_told(tmp_path: Path) -> None:
    (tmp_path / "2025550123.csv").write_bytes(b"x")
    looked = scanned(tmp_path)
    assert {(at.needle, at.place.name) for at in looked.found} == {(2, "names")}
    places = {one.place.name for one in Walk(tmp_path, "test").found()}
    assert places == {"names", "1.csv"}


def test_a_window_counts_what_begins_in_it_once() -> None:
    def source() -> Iterable[Found]:
        return windows(Place("test", "file", "x"), [bytes(WINDOW_BYTES - 3), SPOKEN, bytes(3 * WINDOW_BYTES)])

    looked = look(Needles(NEEDLES), Opener([]), source)
    assert sum(looked.found.values()) == 1
    assert looked.octets["test"] == 4 * WINDOW_BYTES - 3 + len(SPOKEN)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\0fe.\xec\x03", set()),  # compression has cut the kind short
        (b"\0fence\0", set()),
        (b"\0item\0c1\0", {"file"}),
        (b"\0fence\0" + b"REF" + b"\xff\xff", set()),  # the index of a table names a key too, and shortens it
        (b"\0fence\0" + b"REF" + b"\xff\xff" + b"REF" + b"\xff\xff", {"file"}),  # but once, so these are somebody else's
    ],
)
def test_a_fence_explains_its_own_raw_bytes_and_no_others(raw: bytes, told: set[str]) -> None:
    ref = b"sub_abcdefghijklmnopqrstuvwx2y"
    place = Place("data", "file", "000030.sst")

    def source() -> Iterable[Found]:
        yield Chunk(Place("data", "state", "fence"), b"s" + ref + b"\0fence\0", file="a")
        yield from windows(place, [b"s" + ref + raw.replace(b"REF", ref) + bytes(50)], "a")

    needle = Needle(1, "ref", ref.decode())
    found = look(Needles([needle]), Opener([]), source).found
    assert {at.place.kind for at in found if standing_of(needle, at.place) == "outside"} == told
