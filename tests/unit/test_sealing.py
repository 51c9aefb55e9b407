"""The three token forms, octet for octet, and what must never open."""

import hashlib
import hmac
import os
import random
from base64 import b32encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime import partition_of
from engine.sealing import (
    SHARDS,
    Erased,
    KeyForeign,
    Nonces,
    Sealer,
    SealingFault,
    TokenForeign,
    TokenMalformed,
    actor_hash,
    field_name,
    form_of,
    open_text,
    place_of,
    raw_key_id,
    raw_place_of,
    shard_of,
    subject_ref,
    wrapped_under,
)  # fmt: skip
from schemas.markers import marker_for

KEY = bytes(range(32))
DATA_KEY = bytes(range(32, 64))
NONCE = bytes(range(100, 112))
SCHEMA = bytes.fromhex("0011223344556677")
OWNER = "sub_" + "a" * 26
PLACE = place_of("acme", OWNER, "conv-1")
FIELD = field_name("text")
RAW_PLACE = raw_place_of("raw", "subject.events")
SEALER = Sealer(KEY)
TEXT = b"call me on +1 202-555-0123"

FIELD_TOKEN = SEALER.seal_field(TEXT, PLACE, FIELD, SCHEMA, NONCE)
RAW_TOKEN = SEALER.seal_raw(TEXT, RAW_PLACE, 7, NONCE)
WRAPPED_KEY = SEALER.wrap(DATA_KEY, PLACE, 3, 4095, NONCE)

Opener = Callable[[bytes], bytes]
FORMS: dict[str, tuple[bytes, Opener]] = {
    "field": (FIELD_TOKEN, lambda token: SEALER.open_field(token, PLACE, FIELD)),
    "raw": (RAW_TOKEN, lambda token: SEALER.open_raw(token, RAW_PLACE)),
    "wrapped": (WRAPPED_KEY, lambda token: SEALER.unwrap(token, PLACE)),
}

GOLDEN = {
    "field": (
        "c50100112233445566772a6eaf15ada5fd8b88b95f08a59bea746c1af30823b12b4b10f708a2a5704c23646566676869"
        "6a6b6c6d6e6f6829d892c9dbdc3ec0b12575f8534b1a1046bf04f39c6a07041e0077ecda478fea80a2e8c0bda64e2a65"
    ),
    "raw": (
        "c502000000072a6eaf15ada5fd8b88b95f08a59bea746c1af30823b12b4b10f708a2a5704c236465666768696a6b6c6d"
        "6e6f6829d892c9dbdc3ec0b12575f8534b1a1046bf04f39c6a07041e1f8481676e8a78e38fd9978b948ff8d8"
    ),
    "wrapped": (
        "c503000000030fff2a6eaf15ada5fd8b88b95f08a59bea746c1af30823b12b4b10f708a2a5704c236465666768696a6b"
        "6c6d6e6f2b6996ddcd939f3987f62f75e55e5705125ab802f2846c010e14a8ab6cccaf3f7cd8930e70649a40bbbe2f43"
        "a43e02b1"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_format_never_changes_unnoticed(form: str) -> None:
    assert FORMS[form][0].hex() == GOLDEN[form]


@pytest.mark.parametrize("form", FORMS)
def test_what_was_sealed_years_ago_still_opens(form: str) -> None:
    assert FORMS[form][1](bytes.fromhex(GOLDEN[form])) == (DATA_KEY if form == "wrapped" else TEXT)


def test_the_grammar_is_what_the_docstring_says() -> None:
    """Built here from the grammar alone, with another library's HKDF."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    def expand(info: bytes) -> bytes:
        return HKDFExpand(SHA256(), 32, info).derive(KEY)

    def parts(*values: bytes) -> bytes:
        return b"".join(len(value).to_bytes(4, "big") + value for value in values)

    aead, commitment = AESGCM(expand(b"consentinel/1/encrypt")), expand(b"consentinel/1/commit")
    place = (b"acme", OWNER.encode(), b"conv-1")
    aad = parts(*place, b"text", SCHEMA, b"\xc5\x01")
    assert FIELD_TOKEN == b"\xc5\x01" + SCHEMA + commitment + NONCE + aead.encrypt(NONCE, TEXT, aad)
    aad = parts(b"raw", b"subject.events", b"\0\0\0\x07", b"\xc5\x02")
    assert RAW_TOKEN == b"\xc5\x02\0\0\0\x07" + commitment + NONCE + aead.encrypt(NONCE, TEXT, aad)
    aad = parts(*place, b"\x0f\xff", b"\0\0\0\x03", b"\xc5\x03")
    assert WRAPPED_KEY == b"\xc5\x03\0\0\0\x03\x0f\xff" + commitment + NONCE + aead.encrypt(NONCE, DATA_KEY, aad)


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_bit_anywhere_never_opens(form: str) -> None:
    token, opened = FORMS[form]
    for bit in range(len(token) * 8):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((TokenForeign, TokenMalformed)):
            opened(bytes(changed))


@given(
    form=st.sampled_from(sorted(FORMS)),
    noise=st.binary(max_size=200),
    cut=st.integers(0, 200),
    text=st.binary(max_size=80),
)
def test_a_mangled_token_is_refused_by_type(form: str, noise: bytes, cut: int, text: bytes) -> None:
    token, opened = FORMS[form]
    for mangled in (
        noise,
        token[:2] + noise,
        token[:cut] + noise,
        token[cut + 1 :],
        token + noise + b"\0",
        text + token,
    ):
        if mangled != token:
            with pytest.raises(SealingFault):
                opened(mangled)


@given(text=st.binary(max_size=2000), key=st.binary(min_size=32, max_size=32), nonce=st.binary(min_size=12, max_size=12))
def test_what_is_sealed_opens_and_does_not_show(text: bytes, key: bytes, nonce: bytes) -> None:
    sealer = Sealer(key)
    token = sealer.seal_field(text, PLACE, FIELD, SCHEMA, nonce)
    assert len(token) == len(text) + 70
    assert sealer.open_field(token, PLACE, FIELD) == text
    assert len(text) < 8 or text not in token[54:]
    assert key not in token
    assert sealer.open_raw(sealer.seal_raw(text, RAW_PLACE, 2**32 - 1, nonce), RAW_PLACE) == text


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (place_of("other", OWNER, "conv-1"), FIELD),
        (place_of("acme", "sub_" + "b" * 26, "conv-1"), FIELD),
        (place_of("acme", OWNER, "conv-2"), FIELD),
        (place_of("acme" + OWNER, "", "conv-1"), FIELD),
        (place_of("acme", OWNER + "conv-1", ""), FIELD),
        (PLACE, field_name("name")),
        (PLACE, field_name("")),
    ],
)
def test_a_field_token_opens_in_its_own_place_only(place: bytes, field: bytes) -> None:
    with pytest.raises(TokenForeign):
        SEALER.open_field(FIELD_TOKEN, place, field)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [raw_place_of("quarantine", "subject.events"), raw_place_of("raw", "case.events")])
def test_a_raw_token_opens_for_its_purpose_and_topic_only(place: bytes) -> None:
    with pytest.raises(TokenForeign):
        SEALER.open_raw(RAW_TOKEN, place)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("x", OWNER, "conv-1"), ("acme", "x", "conv-1"), ("acme", OWNER, "x")])
def test_a_wrapped_key_opens_in_its_own_place_only(names: tuple[str, str, str]) -> None:
    with pytest.raises(TokenForeign):
        SEALER.unwrap(WRAPPED_KEY, place_of(*names))


@pytest.mark.parametrize("claim", [slice(2, 6), slice(6, 8)], ids=["epoch", "shard"])
def test_a_wrapped_key_cannot_be_moved_to_another_epoch_or_shard(claim: slice) -> None:
    moved = bytearray(WRAPPED_KEY)
    moved[claim] = bytes(len(moved[claim]))
    with pytest.raises(TokenForeign):
        SEALER.unwrap(bytes(moved), PLACE)


def test_one_form_never_opens_as_another() -> None:
    for form, (_, opened) in FORMS.items():
        for other, (token, _) in FORMS.items():
            if form != other:
                with pytest.raises(TokenMalformed):
                    opened(token)
    with pytest.raises(SealingFault):  # nor with its first octets rewritten
        SEALER.open_raw(b"\xc5\x02" + WRAPPED_KEY[2:6] + WRAPPED_KEY[8:], RAW_PLACE)


def test_a_token_under_another_key_is_told_by_its_commitment() -> None:
    other = Sealer(DATA_KEY)
    with pytest.raises(KeyForeign):
        other.open_field(FIELD_TOKEN, PLACE, FIELD)
    with pytest.raises(KeyForeign):
        other.open_raw(RAW_TOKEN, RAW_PLACE)
    with pytest.raises(KeyForeign):
        other.unwrap(WRAPPED_KEY, PLACE)


def test_the_commitment_is_checked_even_where_the_cipher_would_open() -> None:
    """What an attacker with a two-key ciphertext would send: it decrypts, but names another key."""
    forged = FIELD_TOKEN[:10] + bytes(32) + FIELD_TOKEN[42:]
    with pytest.raises(KeyForeign):
        SEALER.open_field(forged, PLACE, FIELD)


def test_errors_hold_neither_value_nor_key() -> None:
    with pytest.raises(TokenForeign) as caught:
        SEALER.open_field(FIELD_TOKEN, place_of("acme", OWNER, "conv-2"), FIELD)
    assert caught.value.__cause__ is None
    for secret in ("555", OWNER, "acme", KEY.hex(), repr(KEY)):
        assert secret not in str(caught.value) + repr(SEALER)


def test_arguments_of_a_wrong_length_are_bugs() -> None:
    for wrong in (b"", bytes(16), bytes(11), bytes(13)):
        with pytest.raises(ValueError, match="octets"):
            SEALER.seal_field(TEXT, PLACE, FIELD, SCHEMA, wrong)
        with pytest.raises(ValueError, match="octets"):
            SEALER.seal_raw(TEXT, RAW_PLACE, 1, wrong)
        with pytest.raises(ValueError, match="octets"):
            SEALER.wrap(wrong, PLACE, 1, 1, NONCE)
        with pytest.raises(ValueError, match="octets"):
            Sealer(wrong)
    with pytest.raises(ValueError, match="octets"):
        SEALER.seal_field(TEXT, PLACE, FIELD, b"short", NONCE)


def test_a_token_says_what_it_needs() -> None:
    assert [form_of(token) for token, _ in FORMS.values()] == ["field", "raw", "wrapped"]
    assert raw_key_id(RAW_TOKEN) == 7
    assert wrapped_under(WRAPPED_KEY) == (3, 4095)
    for none in (
        b"",
        b"\xc5",
        b"\xc5\x01",
        b"\xc5\x09" + FIELD_TOKEN[2:],
        WRAPPED_KEY + b"\0",
        WRAPPED_KEY[:-1],
        TEXT * 5,
    ):
        assert form_of(none) is None
    with pytest.raises(TokenMalformed):
        raw_key_id(FIELD_TOKEN)
    with pytest.raises(TokenMalformed):
        wrapped_under(RAW_TOKEN)


def test_a_lost_key_opens_to_the_marker_and_never_raises() -> None:
    erased = Erased("user.content.private")
    for token in (FIELD_TOKEN, RAW_TOKEN, b"", TEXT):
        opened = open_text(None, token, PLACE, FIELD, erased)
        assert isinstance(opened, Erased)
        assert opened.marker == "[anonconversationcontent]"
    assert open_text(SEALER, FIELD_TOKEN, PLACE, FIELD, erased) == TEXT.decode()


@pytest.mark.parametrize(
    ("category", "kind", "marker"),
    [
        ("user.contact", "tel", "[anonphonenumber]"),
        ("user.contact", "email", "[anondigitaladdress]"),
        ("user.contact", "social", "[anondigitaladdress]"),
        ("user.contact", "device", "[anondigitaladdress]"),
        ("user.contact", "ip", "0.0.0.0"),
        ("user.contact", "crm", "[anonymized]"),
        ("user.contact", "employee", "[anonymized]"),
        ("user.contact", "", "[anonymized]"),
        ("user.contact.phone_number", "", "[anonphonenumber]"),
        ("user.contact.email", "", "[anondigitaladdress]"),
        ("user.device.ip_address", "", "0.0.0.0"),
        ("user.device.cookie_id", "", "[anondigitaladdress]"),
        ("user.content", "", "[anonconversationcontent]"),
        ("user.content.private", "", "[anonconversationcontent]"),
        ("user.contents", "", "[anonymized]"),
        ("user.name", "", "[anonymized]"),
        ("user", "", "[anonymized]"),
        ("", "", "[anonymized]"),
    ],
)
def test_every_kind_of_field_has_its_marker(category: str, kind: str, marker: str) -> None:
    assert marker_for(category, kind) == Erased(category, kind).marker == marker


def test_nonces_are_fresh_and_drawn_in_batches() -> None:
    draws: list[int] = []

    def source(count: int) -> bytes:
        draws.append(count)
        return os.urandom(count)

    nonces = Nonces(source)
    drawn = [nonces() for _ in range(257)]
    assert len(set(drawn)) == 257
    assert {len(nonce) for nonce in drawn} == {12}
    assert draws == [12 * 256, 12 * 256]


def test_threads_never_share_a_nonce() -> None:
    nonces = Nonces()
    with ThreadPoolExecutor(8) as pool:
        drawn = [nonce for batch in pool.map(lambda _: [nonces() for _ in range(2000)], range(8)) for nonce in batch]
    assert len(set(drawn)) == 16_000


def test_a_seeded_source_repeats_itself() -> None:
    first, second = Nonces(random.Random(7).randbytes), Nonces(random.Random(7).randbytes)
    assert [first() for _ in range(300)] == [second() for _ in range(300)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_draws_its_own_nonces() -> None:
    nonces = Nonces()
    nonces()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(nonces() for _ in range(255)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 12 * 255)
    os.close(reader)
    assert len(theirs) == 12 * 255
    assert {theirs[at : at + 12] for at in range(0, len(theirs), 12)}.isdisjoint(nonces() for _ in range(255))


def test_a_reference_never_changes() -> None:
    assert subject_ref(KEY, "tel", "+12025550123") == "sub_dufarcfpsz3mlpjusimfvcidoe"
    assert subject_ref(KEY, "email", "ada@example.org") == "sub_luk5beuyjoy2jgbe4wt7i6galm"
    assert actor_hash(KEY, "agent-7") == "act_vbahkgpbhqhap4qc"


@given(pepper=st.binary(min_size=32, max_size=32), kind=st.text(max_size=9), normal=st.text(max_size=60))
def test_a_reference_is_the_keyed_hash_of_the_contract(pepper: bytes, kind: str, normal: str) -> None:
    parts = b"".join(len(value.encode()).to_bytes(4, "big") + value.encode() for value in (kind, normal))
    digest = hmac.new(pepper, parts, hashlib.sha256).digest()
    assert subject_ref(pepper, kind, normal) == "sub_" + b32encode(digest[:16]).decode().lower().rstrip("=")


def test_references_differ_by_pepper_kind_and_value() -> None:
    made = {
        subject_ref(KEY, "tel", "+12025550123"), subject_ref(DATA_KEY, "tel", "+12025550123"),
        subject_ref(KEY, "crm", "+12025550123"), subject_ref(KEY, "tel", "+12025550124"),
        subject_ref(KEY, "tel+", "12025550123"),
    }  # fmt: skip
    assert len(made) == 5
    assert actor_hash(KEY, "ada")[4:] != subject_ref(KEY, "actor", "ada")[4:20]


@given(owner=st.text(max_size=40))
def test_a_shard_stays_in_one_partition(owner: str) -> None:
    shard = shard_of(owner)
    assert 0 <= shard < SHARDS
    assert shard % 16 == partition_of(owner.encode(), 16)


def test_owners_spread_over_the_shards() -> None:
    shards = {shard_of(subject_ref(KEY, "tel", f"+1202555{number:04}")) for number in range(4096)}
    assert len(shards) > 2400  # 1 - 1/e of 4,096 is 2,589
