"""Decoders give what was packed, or `Unreadable`: never another exception, never something else, never without end."""

import base64
import gzip as gzip_library
import os
import subprocess
from random import Random
from shutil import which

import pytest

from engine.scan.faults import Unreadable
from engine.scan.streams import packed, unpacked
from engine.scan.unpack import gzip, lz4, lz4_block, lzf, snappy
from engine.scan.zstd import zstd

TEXT = b"ha ha ha ha ha, said the parrot. ha ha ha ha ha!"
# Literal "ha ", copy 11 from 3 back, literal of 19, copy 14 from 33 back, literal "!".
SNAPPY = bytes([48, 2 << 2, *b"ha ", (11 - 4) << 2 | 1, 3, 18 << 2, *b", said the parrot. ", 13 << 2 | 2, 33, 0, 0, *b"!"])
LZF = bytes([2, *b"ha ", 7 << 5, 11 - 9, 2, 18, *b", said the parrot. ", 7 << 5, 14 - 9, 32, 0, *b"!"])
ZSTD = base64.b64decode("KLUv/QRYJQEA4GhhICwgc2FpZCB0aGUgcGFycm90LiBoYSBoYSECAHyWoOHcvn6lNw==")  # by zstd 1.5


def test_a_snappy_block_is_read() -> None:
    assert snappy(SNAPPY) == TEXT
    framed = b"\x82SNAPPY\0" + bytes([0, 0, 0, 1, 0, 0, 0, 1]) + 2 * (len(SNAPPY).to_bytes(4, "big") + SNAPPY)
    assert snappy(framed) == 2 * TEXT


def test_an_lzf_string_is_read() -> None:
    assert lzf(LZF, len(TEXT)) == TEXT
    with pytest.raises(Unreadable):
        lzf(LZF, len(TEXT) + 1)


def test_a_zstd_frame_is_read() -> None:
    assert zstd(ZSTD) == TEXT


def samples() -> list[bytes]:
    rng = Random(3)
    words = [bytes(rng.randrange(97, 123) for _ in range(rng.randrange(2, 9))) for _ in range(400)]
    return [
        b"", b"a", b"a" * 70_000, os.urandom(900), os.urandom(200_000), b" ".join(rng.choice(words) for _ in range(30_000)),
        bytes(rng.choice(b"abcd") for _ in range(90_000)), b"".join(bytes([n % 256]) * rng.randrange(1, 9) for n in range(9_000)),
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["--fast=5", "-1", "-3", "-9", "-19", "-1 --no-check", "-3 --content-size"])
def test_what_zstd_packs_is_read(level: str) -> None:
    program = which("zstd")
    if program is None:
        pytest.skip("needs the program zstd")
    for sample in samples():
        done = subprocess.run([program, "-c", "-q", *level.split()], input=sample, capture_output=True, check=True)
        assert zstd(done.stdout) == sample
        assert zstd(b"\x50\x2a\x4d\x18\x03\0\0\0abc" + done.stdout + done.stdout) == 2 * sample


@pytest.mark.parametrize("options", ["-1", "-9", "-BD -9", "-B4 --no-frame-crc", "-B5 -BX --content-size"])
def test_what_lz4_packs_is_read(options: str) -> None:
    program = which("lz4")
    if program is None:
        pytest.skip("needs the program lz4")
    for sample in samples():
        done = subprocess.run([program, "-c", "-q", *options.split()], input=sample, capture_output=True, check=True)
        assert lz4(done.stdout + done.stdout) == 2 * sample


@pytest.mark.parametrize("unpack", [zstd, lz4, snappy, gzip, lz4_block, lambda data: lzf(data, 100)])
def test_no_input_makes_a_decoder_fail_in_another_way(unpack: object) -> None:
    rng = Random(9)
    heads = [b"", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18\x60\x40\x82", b"\x82SNAPPY\0", b"\x1f\x8b\x08", ZSTD, SNAPPY, LZF]
    for _ in range(3_000):
        head = bytearray(rng.choice(heads))
        if len(head) > 12:
            for _ in range(rng.randrange(1, 4)):
                head[rng.randrange(len(head))] = rng.randrange(256)
        data = bytes(head) + rng.randbytes(rng.randrange(60))
        try:
            assert len(unpack(data)) < 1 << 28  # type: ignore[operator]
        except Unreadable:
            pass


def test_a_stream_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    data = os.urandom(300_000)
    whole = gzip_library.compress(data)
    make = packed(whole)
    assert make is not None
    assert b"".join(unpacked([whole[:10], whole[10:]], make)) == data
    read = bytearray()
    with pytest.raises(Unreadable):
        for piece in unpacked([whole[:200_000]], make):
            read += piece
    assert data.startswith(bytes(read)) and len(read) > 150_000
