"""The scan finds what is planted, of each kind and in each writing: without this control its silence would mean nothing."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from engine.filering import FileRing
from engine.runtime import Commit, Output
from engine.sealing import shard_of
from schemas.codec import encode, fingerprint
from schemas.topics import ProtectedConversation, WrappedKey
from tests.harness import Deployment
from tests.scan import Chunk, Needles, Place, look, scan, spellings

NEEDLE, NUMBER, MAIL = "the grey parrot of Ann Example", "+12025550123", "Ann.Example@example.com"
OWNER, SCOPE, CONTROLLER = "sub_" + "a" * 26, "c1", "acme"
SCHEMA = fingerprint(ProtectedConversation)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    deployment = Deployment(tmp_path)
    yield deployment
    deployment.close()


def found(world: Deployment, *needles: str) -> dict[str, list[str]]:
    """Where needles stand, whether in the plain or opened; however they are encoded there."""
    report = scan(needles or [NEEDLE], world.ring, world=world).found
    return {needle: sorted({without_encodings(where) for where in wheres}) for needle, wheres in report.items()}


def without_encodings(where: str) -> str:
    return " ".join(word for word in where.split() if word not in ("base64", "hex", "escaped"))


def append(world: Deployment, topic: str, value: bytes) -> None:
    world.runtime.append([Output(topic, b"k", value)], world.now_ms)


def store(world: Deployment, key: bytes, value: bytes) -> None:
    world.runtime.commit(Commit([], {("subject", 0): {key: value}}, {}, world.now_ms))


@pytest.mark.parametrize("form", sorted(spellings(NEEDLE)), ids=lambda form: form.hex()[:16])
def test_a_needle_is_found_in_every_writing(world: Deployment, form: bytes) -> None:
    append(world, "decisions", b"\xf0" * 50 + form + b"\xf0" * 50)
    assert found(world) == {NEEDLE: ["log decisions"]}


@pytest.mark.parametrize("before", range(7))
def test_a_needle_is_found_inside_base64_at_any_alignment(world: Deployment, before: int) -> None:
    append(world, "decisions", base64.b64encode(b"x" * before + NEEDLE.encode() + b"y" * 5))
    append(world, "quarantine", base64.urlsafe_b64encode(b"\xff" * before + NEEDLE.encode() + b"\xfe" * 4))
    assert found(world) == {NEEDLE: ["log decisions", "log quarantine"]}


@pytest.mark.parametrize(
    "form", ["+12025550123", "12025550123", "2025550123", "(202) 555-0123", "+1 202-555-0123", "tel:+1-202-555-0123"]
)
def test_a_number_is_found_however_it_is_written(world: Deployment, form: str) -> None:
    append(world, "decisions", form.encode())
    assert found(world, NUMBER) == {NUMBER: ["log decisions"]}


@pytest.mark.parametrize("form", ["ann.example@example.com", "ANN.EXAMPLE@EXAMPLE.COM", MAIL])
def test_an_address_is_found_in_any_case(world: Deployment, form: str) -> None:
    append(world, "decisions", form.encode())
    assert found(world, MAIL) == {MAIL: ["log decisions"]}


def test_two_needles_that_overlap_are_both_found(world: Deployment) -> None:
    append(world, "decisions", b"xx" + NEEDLE.encode())
    assert set(found(world, NEEDLE, "Ann Example", "parrot of Ann")) == {NEEDLE, "Ann Example", "parrot of Ann"}


def test_plain_text_in_state_and_in_keys_is_found(world: Deployment) -> None:
    store(world, b"s" + NEEDLE.encode() + b"\0item\0c1\0", b"x")
    assert found(world) == {NEEDLE: ["state subject item"]}


@pytest.mark.parametrize("class_", ["raw", "quarantine"])
def test_a_sealed_record_is_opened_while_its_key_lives_and_only_then(world: Deployment, class_: Any) -> None:
    append(world, "calls", world.secrets.seal_raw("calls", b"{" + NEEDLE.encode() + b"}", world.now_ms, class_))
    assert found(world) == {NEEDLE: ["log calls opened"]}
    world.ring.close_raw(class_, world.now_ms)
    world.ring.destroy_raw([number for number, *_ in world.ring.raw_keys()])
    assert found(world) == {}


@pytest.mark.parametrize("copy", ["state", "superseded in the log", "inside a sealed record", "in slack"])
def test_a_field_is_opened_by_any_copy_of_its_key_that_unwraps(world: Deployment, copy: str) -> None:
    wrapped, key = world.secrets.mint(CONTROLLER, OWNER, SCOPE)
    token = world.secrets.seal_field(key, f"<{NEEDLE}>", "lines.text", SCHEMA)
    store(world, b"s" + OWNER.encode() + b"\0line\0c1\0x\0", b"\x96\x00\xc4" + bytes([len(token)]) + token + b"\xc0\xc0")
    assert found(world) == {}, "without a copy of its key"
    data = encode(wrapped)
    if copy == "state":
        store(world, b"k" + OWNER.encode() + b"\0c1", data)
    elif copy == "superseded in the log":
        append(world, "keys.wrapped", data)
    elif copy == "inside a sealed record":
        append(world, "subject.events", world.secrets.seal_raw("subject.events", data, world.now_ms))
    else:
        append(world, "decisions", os.urandom(999) + wrapped.wrapped + os.urandom(999))
    assert found(world) == {NEEDLE: ["state subject line opened"]}
    epoch = world.ring.rotate_kek(CONTROLLER, shard_of(OWNER), 1) - 1
    world.ring.destroy_kek(CONTROLLER, shard_of(OWNER), epoch)
    assert found(world) == {}, "a wrapped key whose key-encryption key is destroyed opens nothing"


def test_every_line_of_a_protected_conversation_is_opened(world: Deployment) -> None:
    wrapped, key = world.secrets.mint(CONTROLLER, OWNER, SCOPE)
    texts = [f"{NEEDLE} {n}!" for n in range(50)]
    append(
        world,
        "conversations.protected",
        b"".join(world.secrets.seal_field(key, t, "lines.text", SCHEMA) + b"\x02" for t in texts),
    )
    append(
        world, "keys.wrapped", encode(WrappedKey(controller=CONTROLLER, shard=wrapped.shard, epoch=1, wrapped=wrapped.wrapped))
    )
    assert len(found(world, *texts)) == 50


def test_base64_inside_what_was_sealed_is_read(world: Deployment) -> None:
    inner = base64.b64encode(os.urandom(31) + world.secrets.seal_raw("calls", NEEDLE.encode(), world.now_ms))
    append(world, "calls", world.secrets.seal_raw("calls", inner, world.now_ms))
    assert NEEDLE in found(world)


def test_raw_bytes_of_files_are_searched_and_their_tokens_opened(tmp_path: Path) -> None:
    world = Deployment(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    token = world.secrets.seal_raw("calls", b"x" * 100 + NEEDLE.encode(), world.now_ms)
    (folder / "left-over").write_bytes(os.urandom(5000) + token + os.urandom(5000))
    (folder / "plain").write_bytes(os.urandom(100) + MAIL.encode("utf-16-le"))
    report = scan([NEEDLE, MAIL], world.ring, folder)
    assert report.found == {NEEDLE: ["file 1 opened"], MAIL: ["file 2"]}
    world.close()


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    ring = FileRing(tmp_path / "r", create=True)
    chunks = [
        Chunk(Place("test", "file", "random"), os.urandom(1_000_000)),
        Chunk(Place("test", "file", "near"), NEEDLE[:-1].encode() + b"\0" + NEEDLE[1:].encode()),
    ]
    assert look(Needles([NEEDLE, NUMBER, MAIL]), dict(ring.all_keys_alive()), chunks).found == {}
    ring.close()
