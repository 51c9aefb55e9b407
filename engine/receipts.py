r"""Receipts: one signed file says what became of a request, and holds the audit entries that prove each word of it.

    receipt    head "\n" signature "\n\n" body
    head       "consentinel/receipt@v1" "\n"
               "request " word "\n" "controller " word "\n" "made " ms "\n"
               "state " word "\n" "due " ms "\n" ("open " word " " ms "\n")*     the signer's own word: see below
               "entries " count "\n" "sha256 " base64(SHA-256(body)) "\n"
    signature  "\n" "— " name " " base64(key id ‖ Ed25519 signature)              head and signature are a C2SP signed-note
    body       summary ("\n\n" checkpoint ("\n\n" proof)+)+ "\n"
    summary    "summary" ("\n" line)*                                             `engine/receipt_summary.py`
    checkpoint a C2SP tlog-checkpoint of one origin, in a signed-note
    proof      the head of a C2SP tlog-proof: its lines before the blank one, `extra` included

A proof, a blank line and the checkpoint above it are a C2SP tlog-proof file: any verifier of those can check each entry.

There is one way to write a receipt. To check one is to read the evidence, verify each entry, write the receipt again from the
entries alone, and compare. So a summary that says anything else than the proven entries is refused, whoever signed it. State,
due time and open targets are in no entry: a receipt that is not complete states them on the signer's word, and says so.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import groupby
from typing import Any

import msgspec

from engine.merkle import SIZE_MAX, AuditFault, leaf_hash, verify_inclusion
from engine.notes import Checkpoint, NoteInvalid, Signer, open_checkpoint, open_note, strict_base64, strict_number
from engine.proofs import HEADER as PROOF
from engine.proofs import ProofInvalid, read_proof, write_proof
from engine.receipt_summary import REQUEST, Summary, bound_ms, covers, is_rotation, summary_lines, summary_of, word
from schemas.codec import decode_as
from schemas.topics import AuditEntry

HEADER = "consentinel/receipt@v1"
ENTRIES_MAX = 50_000  # some 20,000 conversations of one person; about 1.5 KB each in the file
RECEIPT_CHARS_MAX = 256 << 20
BLANK = "\n\n"


class ReceiptInvalid(AuditFault):
    """Raised when a file is no receipt that this key signed, or cannot be made.

    Codes: `receipt_malformed`; `body_differs` (from what was signed); `not_included` (an entry is not in the signed log);
    `entry_foreign` (an entry of another request or place, or a rotation that does not cover it); `summary_differs` (it says
    something else than the entries); `receipt_too_large`; and those of `NoteInvalid`.
    """


class Target(msgspec.Struct, frozen=True):
    """A target that has not answered, and until when it has to."""

    target: str
    acknowledge_by_ms: int


class Stated(msgspec.Struct, frozen=True):
    """What no entry says: where the request stood when the receipt was made. Signed, not proven."""

    state: str
    due_ms: int
    open: tuple[Target, ...] = ()


class Proven(msgspec.Struct, frozen=True):
    """An entry's bytes, its place in its origin's log, and the hashes that lead to the checkpoint's root."""

    index: int
    leaf: bytes
    hashes: tuple[bytes, ...]


class Section(msgspec.Struct, frozen=True):
    """The entries of one origin under one signed checkpoint, by rising index."""

    note: str
    entries: tuple[Proven, ...]


class Receipt(msgspec.Struct, frozen=True):
    """A receipt whose parts fit together. `entries` are the decoded leaves, in the order of the sections."""

    request: str
    controller: str
    made_ms: int
    stated: Stated
    sections: tuple[Section, ...]
    entries: tuple[AuditEntry, ...]
    summary: Summary
    signature: str  # the line

    def text(self) -> str:
        """The file."""
        body = self.body()
        return f"{self.head(body)}\n{self.signature}{BLANK}{body}"

    def body(self) -> str:
        """Summary, checkpoints and proofs."""
        blocks = ["\n".join(["summary", *summary_lines(self.summary)])]
        for section in self.sections:
            blocks.append(section.note[:-1])
            blocks.extend(write_proof(p.leaf, p.index, p.hashes, "")[: -len(BLANK)] for p in section.entries)
        return BLANK.join(blocks) + "\n"

    def head(self, body: str) -> str:
        """What is signed: whose receipt it is, what no entry says, and the hash of the body."""
        stated = self.stated
        lines = [HEADER, f"request {word(self.request)}", f"controller {word(self.controller)}", f"made {self.made_ms}"]
        lines += [f"state {word(stated.state)}", f"due {stated.due_ms}"]
        lines += [f"open {word(target.target)} {target.acknowledge_by_ms}" for target in stated.open]
        lines += [f"entries {len(self.entries)}", f"sha256 {b64encode(sha256(body.encode()).digest()).decode()}"]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """The same content for machines. Its bytes are those of `receipt_json`."""
        proofs = [(section.note.partition("\n")[0], proven) for section in self.sections for proven in section.entries]
        return {
            "format": HEADER, "request": self.request, "controller": self.controller, "made_ms": self.made_ms,
            "complete": self.summary.complete, "summary": _plain(self.summary), "stated": _plain(self.stated),
            "entries": [{
                "origin": origin, "index": proven.index, "at_ms": entry.at_ms, "kind": entry.kind, "subject": entry.subject,
                "actor": entry.actor, "facts": dict(sorted(entry.facts.items())), "leaf": b64encode(proven.leaf).decode(),
                "hashes": [b64encode(digest).decode() for digest in proven.hashes],
            } for (origin, proven), entry in zip(proofs, self.entries, strict=True)],
            "checkpoints": [section.note for section in self.sections], "signature": self.signature,
        }  # fmt: skip


def make_receipt(
    request: str, controller: str, made_ms: int, stated: Stated, sections: Iterable[Section], signer: Signer
) -> Receipt:  # fmt: skip
    """Make and sign a receipt. Raises `ReceiptInvalid` where the sections are no evidence of this request."""
    receipt = _built(request, controller, made_ms, stated, tuple(sections), "")
    head = receipt.head(receipt.body())
    return msgspec.structs.replace(receipt, signature=signer.sign(head)[len(head) + 1 : -1])


def _plain(record: Summary | Stated) -> Any:
    return msgspec.json.decode(msgspec.json.encode(record))


def receipt_json(document: dict[str, Any]) -> bytes:
    """The one spelling of a receipt's JSON form: ASCII, keys in the order of `Receipt.document`, a newline at the end."""
    return (json.dumps(document, ensure_ascii=True) + "\n").encode()


def check_receipt(data: bytes, vkey: str) -> Receipt:
    """Verify a receipt, in either form, by a public key alone; answers what it says. Raises `ReceiptInvalid`.

    1. The key of `vkey` signed the head, and the body is the one whose hash the head holds.
    2. The same key signed the checkpoints; each entry's hash leads to its checkpoint's root (RFC 9162, section 2.1.3.2).
    3. Each entry says that it stands at this place and belongs to this request of this controller; or two of them are a
       rotation of the controller's keys that began after the request was closed.
    4. Written again from these entries the receipt has the same bytes: its summary is theirs.
    """
    if len(data) > RECEIPT_CHARS_MAX:
        raise ReceiptInvalid("receipt_malformed")
    try:
        if not data.startswith(b"{"):
            return _checked(data.decode(), vkey)
        receipt = _checked(_text_of(data), vkey)
    except (NoteInvalid, ProofInvalid) as fault:
        raise ReceiptInvalid("receipt_malformed" if fault.code == "proof_malformed" else fault.code) from None
    except (ValueError, RecursionError):
        raise ReceiptInvalid("receipt_malformed") from None
    if receipt_json(receipt.document()) != data:
        raise ReceiptInvalid("summary_differs")
    return receipt


def _checked(text: str, vkey: str) -> Receipt:
    head, first, rest = text.partition(BLANK)
    signature, second, body = rest.partition(BLANK)
    if not (first and second) or "\n" in signature:
        raise ReceiptInvalid("receipt_malformed")
    fields = _Fields(open_note(f"{head}{BLANK}{signature}\n", vkey))  # 1
    if sha256(body.encode()).digest() != fields.digest:
        raise ReceiptInvalid("body_differs")
    sections = tuple(_sections(body))
    for section in sections:
        _verify(section, open_checkpoint(section.note, vkey))  # 2
    receipt = _built(fields.request, fields.controller, fields.made_ms, fields.stated, sections, signature)  # 3
    if receipt.text() != text:  # 4
        raise ReceiptInvalid("summary_differs")
    return receipt


def _verify(section: Section, checkpoint: Checkpoint) -> None:
    for proven in section.entries:
        if not verify_inclusion(leaf_hash(proven.leaf), proven.index, checkpoint.size, proven.hashes, checkpoint.root):
            raise ReceiptInvalid("not_included")


def _built(
    request: str, controller: str, made_ms: int, stated: Stated, sections: tuple[Section, ...], signature: str
) -> Receipt:  # fmt: skip
    """Put a receipt together, if its entries are all of this request, each once, where their origin's section has them."""
    entries: list[AuditEntry] = []
    origins = [section.note.partition("\n")[0] for section in sections]
    for origin, section in zip(origins, sections, strict=True):
        for proven in section.entries:
            entry = decode_as(AuditEntry, proven.leaf)
            place, whose = (entry.origin, entry.index), (entry.facts.get(REQUEST), entry.controller)
            mine = (None if is_rotation(entry) else request, controller)
            if place != (origin, proven.index) or whose != mine:
                raise ReceiptInvalid("entry_foreign")
            entries.append(entry)
        rising = [proven.index for proven in section.entries]
        if not rising or rising != sorted(set(rising)):
            raise ReceiptInvalid("receipt_malformed")
    if not entries or origins != sorted(set(origins)) or len(entries) > ENTRIES_MAX:
        raise ReceiptInvalid("receipt_too_large" if len(entries) > ENTRIES_MAX else "receipt_malformed")
    rotation, closed_ms = sorted(filter(is_rotation, entries), key=lambda entry: entry.at_ms), bound_ms(entries)
    if rotation and (len(rotation) != 2 or closed_ms is None or not covers(rotation[0], rotation[1], closed_ms)):
        raise ReceiptInvalid("entry_foreign")
    summary = summary_of(entries)
    if summary.complete and (stated.open or stated.state != summary.state):
        raise ReceiptInvalid("summary_differs")
    return Receipt(request, controller, made_ms, stated, sections, tuple(entries), summary, signature)


class _Fields:
    """Reads the lines of a head in their one order."""

    def __init__(self, head: str) -> None:
        self._lines = head.split("\n")[:-1]
        if self._lines.pop(0) != HEADER:
            raise ReceiptInvalid("receipt_malformed")
        self.request, self.controller = _unworded(self._take("request")), _unworded(self._take("controller"))
        self.made_ms = _number(self._take("made"))
        state, due_ms, targets = _unworded(self._take("state")), _number(self._take("due")), []
        while self._lines and self._lines[0].startswith("open "):
            target, _, by_ms = self._take("open").rpartition(" ")
            targets.append(Target(_unworded(target), _number(by_ms)))
        self.stated = Stated(state, due_ms, tuple(targets))
        _number(self._take("entries"))
        self.digest = strict_base64(self._take("sha256"))

    def _take(self, name: str) -> str:
        start, space, value = self._lines.pop(0).partition(" ") if self._lines else ("", "", "")
        if start != name or not space:
            raise ReceiptInvalid("receipt_malformed")
        return value


def _unworded(text: str) -> str:
    value = json.loads(text) if text.startswith('"') else text
    if not isinstance(value, str):
        raise ReceiptInvalid("receipt_malformed")
    return value


def _number(text: str) -> int:
    number = strict_number(text)
    if number is None:
        raise ReceiptInvalid("receipt_malformed")
    return number


def _sections(body: str) -> Iterator[Section]:
    blocks = body.removesuffix("\n").split(BLANK)[1:]
    while blocks:
        stop = next((at for at, block in enumerate(blocks[2:], 2) if not block.startswith(PROOF + "\n")), len(blocks))
        proofs = [read_proof(block + BLANK) for block in blocks[2:stop]]
        if len(blocks) < 2:
            raise ReceiptInvalid("receipt_malformed")
        yield Section(BLANK.join(blocks[:2]) + "\n", tuple(Proven(p.index, p.extra or b"", p.hashes) for p in proofs))
        blocks = blocks[stop:]


class _Entry(msgspec.Struct):
    origin: str
    index: int
    leaf: bytes
    hashes: list[bytes]


class _Document(msgspec.Struct):
    """What of the JSON form is evidence: the rest is compared, never read."""

    request: str
    controller: str
    made_ms: int
    stated: Stated
    entries: list[_Entry]
    checkpoints: list[str]
    signature: str


def _text_of(data: bytes) -> str:
    """The text form of a JSON form, to be checked like any other."""
    told = msgspec.json.decode(data, type=_Document)
    notes = {note.partition("\n")[0]: note for note in told.checkpoints}
    sections = tuple(
        Section(notes.get(origin, "\n"), tuple(Proven(e.index, e.leaf, tuple(e.hashes)) for e in entries))
        for origin, entries in groupby(told.entries, key=lambda entry: entry.origin)
    )  # fmt: skip
    if any(not 0 <= entry.index <= SIZE_MAX for entry in told.entries):
        raise ReceiptInvalid("receipt_malformed")
    receipt = _built(told.request, told.controller, told.made_ms, told.stated, sections, told.signature)
    return receipt.text()
