"""vCon in, events of the contract out: every word of a conversation is kept or the document is refused.

Reads what the IETF's vCon drafts call the plain form (draft-ietf-vcon-vcon-core, and the 0.0.1 documents before it):
dialogue, recordings, transcripts, summaries, text attachments. What is signed, encrypted, amended, redacted or a group, and
what names a critical extension, is refused as not supported yet: its content is elsewhere or its meaning is not ours to guess.

Not kept: the bytes of recordings (an inline one becomes a recording without `uri`), attachments that are no text (counted in
`metadata.attachments`; in practice the telephone system's own facts about the call), content that is only linked (counted in
`metadata.linked`), who joined when (`party_history`), positions and postal addresses of parties.

`created_at` and `uuid` may be missing, as in the working group's own examples. Without a `uuid` the conversation is named by
the document's SHA-256; without `created_at` it began with its first dialogue; without any time the document is refused.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec

from connectors.vcon import mapping
from connectors.vcon.mapping import Spoken, VconRefused

__all__ = ["MappedEvent", "VconRefused", "map_vcon"]

SOURCE = "vcon"
DOCUMENT_BYTES_MAX = 8 << 20  # the gateway takes no longer body
ROWS_MAX = 20_000  # entries of dialog, analysis or attachments: a day of uninterrupted talk
SEGMENTS_MAX = 200  # of one `call.transcribed`
SEGMENTS_BYTES_MAX = 512 << 10  # of one `call.transcribed`: an event is at most 1 MiB

# Forms of a vCon that are not built yet, by the field that tells them; an empty one (`"redacted": {}`) says nothing.
UNSUPPORTED = (
    "signatures", "payload", "ciphertext", "unprotected", "recipients", "amended", "appended", "redacted", "group",
    "critical", "must_support",
)  # fmt: skip


class MappedEvent(msgspec.Struct, frozen=True):
    """An event as the gateway takes it: CloudEvents attributes, and `data` as JSON of the contract's fields."""

    id: str
    source: str
    type: str
    time: datetime
    data: bytes


def map_vcon(document: bytes) -> list[MappedEvent]:
    """Map one vCon to the events it tells of, in their order; the same document gives the same events, ids included.

    Raises `VconRefused` with `vcon-broken` (no vCon at all, or a field of a wrong type) or `vcon-not-supported-yet` (a
    form, a dialogue type or a size that is not built yet).
    """
    if len(document) > DOCUMENT_BYTES_MAX:
        raise VconRefused("vcon-not-supported-yet", "")
    try:
        root = msgspec.json.decode(document)
        if not isinstance(root, dict):
            raise VconRefused("vcon-broken", "")
        for field in UNSUPPORTED:
            if root.get(field):
                raise VconRefused("vcon-not-supported-yet", field)
        return list(_Conversation(root, document).events())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise VconRefused("vcon-broken", "") from None


class _Conversation:
    """One document, read into lines, notes, tags and counts; `events` says what they tell."""

    def __init__(self, root: dict[str, Any], document: bytes) -> None:
        rows = mapping.rows_of(root, "parties", mapping.PARTIES_MAX)
        if not rows:
            raise VconRefused("vcon-broken", "parties")
        self.id = _conversation_id(root, document)
        self.parties = [mapping.party_of(row, n) for n, row in enumerate(rows)]
        dialog = mapping.rows_of(root, "dialog", ROWS_MAX)
        self.dialogs = [mapping.dialog_of(row, n, len(rows)) for n, row in enumerate(dialog)]
        self.started, self.ended = self._times(root)
        self.author = next((party["party_id"] for party in self.parties if party["role"] == "agent"), "0")
        self.lines: list[Spoken] = []
        self.notes: list[tuple[str, str]] = []  # author, note
        self.tags: list[dict[str, str]] = []
        self.transcribed = False
        self.unreadable = 0  # inline content that is no text
        self.linked = 0  # content that stands elsewhere
        self._read_dialogs()
        self._read_analyses(mapping.rows_of(root, "analysis", ROWS_MAX))
        self._read_attachments(mapping.rows_of(root, "attachments", ROWS_MAX))
        # A recording without a duration ends no sooner than the last word that was heard in it.
        self.ended = max([self.ended, *(at for at, _, _ in self.lines if at is not None)])
        facts = {"subject": mapping.text_of(root, "subject", "", mapping.TEXT_CHARS_MAX)}
        facts |= {key: str(count) for key, count in (("attachments", self.unreadable), ("linked", self.linked)) if count}
        self.metadata = {key: fact for key, fact in facts.items() if fact}

    def _times(self, root: dict[str, Any]) -> tuple[datetime, datetime]:
        created = mapping.moment_of(root, "created_at", "")
        known = [at for at in (created, *(dialog.start for dialog in self.dialogs)) if at is not None]
        if not known:
            raise VconRefused("vcon-broken", "created_at")
        # A document may be made years after its conversation, and retention counts from the end: `created_at` is no end.
        ends = ((dialog.start or min(known)) + dialog.lasts for dialog in self.dialogs)
        return min(known), max(ends, default=min(known))

    def _read_dialogs(self) -> None:
        lines = marks = 0  # of all mails: what their parsing costs
        for dialog in self.dialogs:
            for key, fact in mapping.object_of(dialog.row, "meta", dialog.where).items():
                # The publisher chose the key, so it may say anything: a refusal names its place only.
                if key.endswith("_disposition"):
                    said = mapping.text_of({"meta": fact}, "meta", dialog.where, mapping.TEXT_CHARS_MAX)
                    if said:
                        self._tag(key, said, f"{dialog.where}meta")
            if dialog.kind != "text":
                continue
            text = self._text(dialog.row, dialog.where)
            if text is not None and mapping.is_mail(dialog.media):
                lines += max(text.count("\n"), text.count("\r"))
                marks += text.count("\n--") + text.count("\r--")
                if lines > mapping.MIME_LINES_MAX or marks > mapping.MIME_MARKS_MAX:
                    raise VconRefused("vcon-not-supported-yet", f"{dialog.where}body")
                text, others = mapping.mail_of(dialog.media, text, f"{dialog.where}body")
                self.unreadable += others
            if text is not None:
                self.lines.append((dialog.start, dialog.speaker, text))
        self.lines.sort(key=lambda line: line[0] or self.started)

    def _read_analyses(self, rows: list[dict[str, Any]]) -> None:
        heard: set[tuple[int, str]] = set()
        # A diarized text often repeats the transcript word for word, so those come last.
        for n, row in sorted(enumerate(rows), key=lambda numbered: numbered[1].get("type") == "diarized"):
            where = f"analysis[{n}]."
            kind = mapping.text_of(row, "type", where, mapping.NAME_CHARS_MAX)
            if not kind:
                raise VconRefused("vcon-broken", f"{where}type")
            about = row.get("dialog")
            about = about[0] if isinstance(about, list) and about else about
            first = mapping.index_of(about, len(self.dialogs), f"{where}dialog") if about not in (None, []) else 0
            text, lines = self._text(row, where), None
            if text is not None and kind.startswith(("transcript", "diarized")):
                base = (self.dialogs[first].start if self.dialogs else None) or self.started
                body = mapping.body_of(row, where)
                lines = mapping.spoken_of(text if isinstance(body, bytes) else body, base, len(self.parties))
                self.transcribed = True
            if lines is not None:
                words = (first, "".join("".join(line[2].split()) for line in lines))
                self.lines.extend(lines if words not in heard else ())
                heard.add(words)
            elif text is not None:
                self.notes.append((self.author, text))

    def _read_attachments(self, rows: list[dict[str, Any]]) -> None:
        for n, row in enumerate(rows):
            where = f"attachments[{n}]."
            about, body = row.get("party"), mapping.body_of(row, where)
            author = self.author if about is None else str(mapping.index_of(about, len(self.parties), f"{where}party"))
            kind = mapping.text_of(row, "type", where, 1024) or mapping.text_of(row, "purpose", where, 1024)
            if kind == "tags" and isinstance(body, list) and all(isinstance(tag, str) for tag in body):
                for tag, _, value in (text.partition(":") for text in body):
                    self._tag(tag.strip(), value.strip(), f"{where}body")
            elif isinstance(body, dict | list):
                self.unreadable += 1
            elif (text := self._text(row, where)) is not None:
                self.notes.append((author, text))

    def _text(self, row: dict[str, Any], where: str) -> str | None:
        """Read the inline text of a row; what has none is counted."""
        text: str | None = mapping.readable(row, where)
        if text is None and row.get("body") is not None:
            self.unreadable += 1
        elif text is None and row.get("url") is not None:
            self.linked += 1
        return text

    def _tag(self, tag: str, value: str, where: str) -> None:
        named = 0 < len(tag) <= mapping.NAME_CHARS_MAX and not mapping.UNPRINTED.search(tag)
        if not named or len(value) > mapping.TEXT_CHARS_MAX:
            raise VconRefused("vcon-broken", where)
        self.tags.append({"tag": tag, "value": value} if value else {"tag": tag})

    def events(self) -> Iterator[MappedEvent]:
        """Say what the document tells, in order.

        An event's id follows from what it says, so that a document that has grown brings only what is new.
        """
        told: Counter[str] = Counter()
        for kind, at, data in self._told():
            encoded = msgspec.json.encode({"conversation_id": self.id, **data})
            digest = sha256(f"{kind} {at.isoformat()} ".encode() + encoded).hexdigest()[:24]
            told[digest] += 1
            event_id = f"{self.id}/{digest}" if told[digest] == 1 else f"{self.id}/{digest}/{told[digest]}"
            yield MappedEvent(event_id, SOURCE, kind, at, encoded)

    def _told(self) -> Iterator[tuple[str, datetime, dict[str, Any]]]:
        started: dict[str, Any] = {"channel": self._channel(), "direction": self._direction(), "parties": self.parties}
        yield "call.started", self.started, started | ({"metadata": self.metadata} if self.metadata else {})
        for n, dialog in enumerate(self.dialogs):
            if dialog.kind in mapping.SPOKEN:
                at = dialog.start or self.started
                recording = {"recording_id": f"{self.id}/dialog/{n}", "confirmed": True}
                uri = mapping.text_of(dialog.row, "url", dialog.where, mapping.URL_CHARS_MAX)
                yield "call.recording_started", at, recording | ({"uri": uri} if uri else {})
                yield "call.recording_stopped", at + dialog.lasts, recording
        for at, segments in self._chunks():
            yield "call.transcribed", at, {"segments": segments}
        for author, note in self.notes:
            for piece in mapping.pieces(note):
                yield "call.annotated", self.ended, {"note": piece, "author": author}
        for tag in self.tags:
            yield "call.tagged", self.ended, tag
        disposition = self._disposition()
        yield "call.ended", self.ended, {"disposition": disposition} if disposition else {}

    def _chunks(self) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
        """Group the lines of one moment for `call.transcribed`."""
        chunk: list[dict[str, Any]] = []
        size, last = 0, self.ended
        for at, party, text in self.lines:
            for piece in mapping.pieces(text):
                segment: dict[str, Any] = {"text": piece}
                if party is not None:
                    segment["party_id"] = str(party)
                if at is not None:
                    segment["offset_ms"] = max(0, (at - self.started) // timedelta(milliseconds=1))
                length = len(msgspec.json.encode(segment))
                moment = max(at or self.ended, self.started)
                if len(chunk) == SEGMENTS_MAX or (chunk and moment != last) or (chunk and size + length > SEGMENTS_BYTES_MAX):
                    yield last, chunk
                    chunk, size = [], 0
                chunk.append(segment)
                size, last = size + length, moment
        if chunk:
            yield last, chunk

    def _channel(self) -> str:
        media = [dialog.media.lower() for dialog in self.dialogs]
        recorded = [dialog for dialog in self.dialogs if dialog.kind in mapping.SPOKEN]
        if any(dialog.kind == "video" or dialog.media.lower().startswith("video/") for dialog in recorded):
            return "video"
        if recorded or self.transcribed or not any(dialog.kind == "text" for dialog in self.dialogs):
            return "voice"
        mailed = any(dialog.row.get("message_id") is not None for dialog in self.dialogs)
        kinds = {identifier["kind"] for party in self.parties for identifier in party["identifiers"]}
        return "email" if any(map(mapping.is_mail, media)) or (mailed and kinds == {"email"}) else "chat"

    def _direction(self) -> str:
        for dialog in self.dialogs:
            where = f"{dialog.where}meta."
            said = mapping.text_of(mapping.object_of(dialog.row, "meta", dialog.where), "direction", where, 64).lower()
            if said:
                said = mapping.DIRECTIONS.get(said, said)
                return said if said in ("inbound", "outbound", "internal") else "inbound"
        return "inbound"

    def _disposition(self) -> str:
        found = ""
        for dialog in self.dialogs:
            meta = mapping.object_of(dialog.row, "meta", dialog.where)
            said = mapping.name_of(meta, "disposition", f"{dialog.where}meta.")
            found = said or mapping.name_of(dialog.row, "disposition", dialog.where) or found
        return found


def _conversation_id(root: dict[str, Any], document: bytes) -> str:
    text = mapping.text_of(root, "uuid", "", 64)
    if not text:
        return f"vcon-{sha256(document).hexdigest()[:32]}"
    try:
        return str(UUID(text))  # only a true UUID: a conversation id stands in keys, where no number or address may
    except ValueError:
        raise VconRefused("vcon-broken", "uuid") from None
