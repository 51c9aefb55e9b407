"""Reads the parts of a vCon. What has the wrong form is refused by its path, never by its value."""

import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_string
from typing import Any, Literal

import msgspec

PARTIES_MAX = 64  # the contract's `call.started` takes no more
TEXT_CHARS_MAX = 65_536  # the contract's longest line, note or value; longer ones are split here
NAME_CHARS_MAX = 256  # the contract's longest tag and disposition
IDENTIFIER_CHARS_MAX = 512
URL_CHARS_MAX = 4_096
DURATION_SECS_MAX = 366 * 86_400  # no conversation lasts a year; also keeps times within what a date can hold
MIME_DEPTH_MAX = 16  # multiparts in one mail: the parser compares every line with every boundary that is open
MIME_LINES_MAX = 200_000  # of all mails of a document: some 15 MiB of base64
MIME_MARKS_MAX = 20_000  # lines that may be a boundary, in all mails of a document: each costs a part

# Which party fields identify someone, and as what. A geographic position or a name does not.
IDENTIFIERS = (("tel", "tel"), ("mailto", "email"), ("sip", "social"), ("did", "social"), ("gmlpstn", "social"))
ROLES = {"contact": "customer", "": "customer"}
DIRECTIONS = {"in": "inbound", "incoming": "inbound", "out": "outbound", "outgoing": "outbound"}
SPOKEN = ("recording", "video")  # `video` is a dialogue type of older drafts
SILENT = ("transfer", "incomplete")  # dialogue types without content: they only count as time
PARAGRAPH = re.compile(r"\n\s*\n")
UNPRINTED = re.compile(r"[\x00-\x1f\x7f]")

Refusal = Literal["vcon-broken", "vcon-not-supported-yet"]
Spoken = tuple[datetime | None, int | None, str]  # when, by which party, what


class VconRefused(Exception):
    """The document was refused. `field` is a path like `dialog[3].start`; neither holds a value of the document."""

    def __init__(self, code: Refusal, field: str) -> None:
        self.code: Refusal = code
        self.field = field
        super().__init__(f"{code}: {field}")


def text_of(item: dict[str, Any], key: str, where: str, chars_max: int) -> str:
    """Read the text under `key`, stripped; empty when there is none. Refuses other types and longer texts."""
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > chars_max:
        raise VconRefused("vcon-broken", f"{where}{key}")
    return value.strip()


def name_of(item: dict[str, Any], key: str, where: str) -> str:
    """`text_of` for what becomes part of a key: bounded, and without control characters."""
    value = text_of(item, key, where, NAME_CHARS_MAX)
    if UNPRINTED.search(value):
        raise VconRefused("vcon-broken", f"{where}{key}")
    return value


def rows_of(document: dict[str, Any], key: str, rows_max: int) -> list[dict[str, Any]]:
    """Read the list of objects under `key`; empty when there is none."""
    rows = document.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise VconRefused("vcon-broken", key)
    if len(rows) > rows_max:
        raise VconRefused("vcon-not-supported-yet", key)
    for n, row in enumerate(rows):
        if not isinstance(row, dict):
            raise VconRefused("vcon-broken", f"{key}[{n}]")
    return rows


def object_of(item: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Read the object under `key`; empty when there is none."""
    value = item.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise VconRefused("vcon-broken", f"{where}{key}")
    return value


def moment_of(item: dict[str, Any], key: str, where: str) -> datetime | None:
    """Read the RFC 3339 time under `key`; one without an offset is taken as UTC, which is what its writers mean."""
    value = item.get(key)
    if value is None:
        return None
    try:
        at = msgspec.convert(value, datetime)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise VconRefused("vcon-broken", f"{where}{key}") from None
    if not 1970 <= at.year <= 9000:
        raise VconRefused("vcon-broken", f"{where}{key}")
    return at


def seconds_of(item: dict[str, Any], key: str, where: str) -> timedelta:
    """Read the number of seconds under `key`; zero when there is none."""
    value = item.get(key)
    if value is None:
        return timedelta()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= DURATION_SECS_MAX:
        raise VconRefused("vcon-broken", f"{where}{key}")
    return timedelta(seconds=value)


def index_of(value: object, count: int, where: str) -> int:
    """Check an index into a list of `count` entries."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise VconRefused("vcon-broken", where)
    return value


def media_of(item: dict[str, Any], where: str) -> str:
    """Read the media type with its parameters; `mimetype` is the older name."""
    return text_of(item, "mediatype", where, 1024) or text_of(item, "mimetype", where, 1024)


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces that the contract takes; nothing for empty text."""
    if text.strip():
        yield from (text[n : n + TEXT_CHARS_MAX] for n in range(0, len(text), TEXT_CHARS_MAX))


def party_of(row: dict[str, Any], n: int) -> dict[str, Any]:
    """Map a party; its id is its index, as a vCon's own ids often hold a number or an address."""
    where = f"parties[{n}]."
    identifiers: list[dict[str, str]] = []
    for key, kind in IDENTIFIERS:
        value = text_of(row, key, where, IDENTIFIER_CHARS_MAX)
        if kind == "tel" and value.lower().startswith("tel:"):
            value = value[4:].partition(";")[0]
        elif kind == "email" and value.lower().startswith("mailto:"):
            value = value[7:].partition("?")[0]
        if value:
            identifiers.append({"kind": kind, "value": value})
    role = text_of(row, "role", where, 64) or text_of(object_of(row, "meta", where), "role", f"{where}meta.", 64)
    party: dict[str, Any] = {
        "party_id": str(n),
        "role": ROLES.get(role.lower(), role.lower()),
        "identifiers": identifiers,
    }
    name = text_of(row, "name", where, 512)
    if name and name.lower() not in {identifier["value"].lower() for identifier in identifiers}:
        party["name"] = name
    return party


class Dialog(msgspec.Struct, frozen=True):
    """One entry of `dialog`. `speaker` is the party who wrote or said it, when that is certain."""

    kind: str
    row: dict[str, Any]
    where: str
    media: str
    start: datetime | None
    lasts: timedelta
    speaker: int | None


def dialog_of(row: dict[str, Any], n: int, parties: int) -> Dialog:
    """Read one entry of `dialog`; refuses a type that is not known, as its content would be lost."""
    where = f"dialog[{n}]."
    kind = text_of(row, "type", where, 64)
    if kind not in (*SPOKEN, *SILENT, "text"):
        raise VconRefused("vcon-not-supported-yet" if kind else "vcon-broken", f"{where}type")
    listed = row.get("parties")
    flat: list[object] = []
    for entry in listed if isinstance(listed, list) else [listed]:
        flat.extend(entry if isinstance(entry, list) else [entry])
    present = [index_of(entry, parties, f"{where}parties") for entry in flat if entry is not None]
    speaker = present[0] if len(present) == 1 else None
    if row.get("originator") is not None:
        speaker = index_of(row["originator"], parties, f"{where}originator")
    media = media_of(row, where)
    return Dialog(kind, row, where, media, moment_of(row, "start", where), seconds_of(row, "duration", where), speaker)


def body_of(item: dict[str, Any], where: str) -> Any:
    """Read the inline content: bytes for base64url, else text or what JSON holds; None when there is none."""
    body, encoding = item.get("body"), text_of(item, "encoding", where, 64)
    if encoding not in ("", "none", "json", "base64url"):
        raise VconRefused("vcon-broken", f"{where}encoding")
    if body is None or encoding in ("", "none"):
        return body
    try:
        if encoding == "base64url":
            bare = body.rstrip("=")
            return b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(body) if isinstance(body, str) else body  # older drafts have JSON within JSON
    except (AttributeError, ValueError):
        if encoding == "json":  # text that was called JSON is still text
            return body
        raise VconRefused("vcon-broken", f"{where}body") from None


def readable(item: dict[str, Any], where: str) -> str | None:
    """Read the inline content as text: JSON stays JSON. None when there is none or when it is no text."""
    body = body_of(item, where)
    media = media_of(item, where).lower()
    if isinstance(body, bytes):
        if not media.startswith(("text/", "multipart/", "message/", "application/json")):
            return None
        try:
            body = body.decode()
        except UnicodeDecodeError:
            raise VconRefused("vcon-broken", f"{where}body") from None
    return body if body is None or isinstance(body, str) else msgspec.json.encode(body).decode()


def is_mail(media: str) -> bool:
    """Whether a media type is that of a mail's source."""
    return media.lower().startswith(("multipart/", "message/rfc822"))


def mail_of(media: str, source: str, field: str) -> tuple[str, int]:
    """Read the text of a mail's source, without the HTML twins of plain text, and count its parts that are no text."""
    if source.lower().count("boundary=") > MIME_DEPTH_MAX:
        raise VconRefused("vcon-not-supported-yet", field)
    head = "" if media.lower().startswith("message/") else "Content-Type: " + " ".join(media.split()) + "\n\n"
    message = message_from_string(head + source)
    twins: set[int] = set()
    for group in message.walk():
        kinds = {id(part): part.get_content_type() for part in group.walk()}
        if group.get_content_type() == "multipart/alternative" and "text/plain" in kinds.values():
            twins |= {part for part, kind in kinds.items() if kind == "text/html"}
    parts = [part for part in message.walk() if not part.is_multipart()]
    texts = [str(message["subject"])] if message["subject"] else []
    for part in parts:
        if part.get_content_maintype() == "text" and id(part) not in twins:
            coded = str(part.get("content-transfer-encoding", "")).strip().lower() in ("quoted-printable", "base64")
            content = part.get_payload(decode=True) if coded else part.get_payload()
            if isinstance(content, bytes):
                content = _decoded(content, part.get_content_charset("utf-8"))
            texts.append(str(content).strip())
    return "\n\n".join(texts), sum(part.get_content_maintype() != "text" for part in parts)


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, "replace")
    except (LookupError, ValueError):  # a character set that nobody knows, or that is none for text
        return content.decode("utf-8", "replace")


def spoken_of(body: Any, base: datetime, parties: int) -> list[Spoken] | None:
    """Read the lines of a transcript in one of the forms that are known; None for any other form."""
    match body:
        case str():
            return [(None, None, text.strip()) for text in PARAGRAPH.split(body) if text.strip()]
        case list():
            lines = [_line(entry, base, parties) for entry in body]
            return None if None in lines else [line for line in lines if line is not None and line[2]]
        case {"results": {"channels": [*channels]}}:  # Deepgram
            return _flat(spoken_of(channel, base, parties) for channel in channels)
        case {"alternatives": [best, *_]}:
            return spoken_of(best, base, parties)
        case {"paragraphs": [*entries]} | {"paragraphs": {"paragraphs": [*entries]}}:
            return spoken_of([_paragraph(entry) for entry in entries], base, parties)
        case {"segments": [_, *_] as inner} | {"transcript": inner} | {"text": inner}:
            return spoken_of(inner, base, parties)
        case _:
            return None


def _flat(found: Iterator[list[Spoken] | None]) -> list[Spoken] | None:
    lists = list(found)
    return None if None in lists else [line for lines in lists if lines is not None for line in lines]


def _paragraph(entry: Any) -> Any:
    match entry:
        case {"sentences": [*sentences]}:
            texts = [sentence.get("text") if isinstance(sentence, dict) else None for sentence in sentences]
            joined = " ".join(text for text in texts if isinstance(text, str))
            return {"text": joined, "start": entry.get("start")} if None not in texts else None
        case _:
            return entry


def _line(entry: Any, base: datetime, parties: int) -> Spoken | None:
    if isinstance(entry, str):
        return (None, None, entry.strip())
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        return None
    try:
        start, who = entry.get("start"), entry.get("party", entry.get("parties"))
        at = moment_of(entry, "start", "") if isinstance(start, str) else base + seconds_of(entry, "start", "")
        at = None if start is None else at
        who = who[0] if isinstance(who, list) and len(who) == 1 else who
        party = None if who is None else index_of(who, parties, "")
    except VconRefused:  # a recogniser's own idea of times or speakers: its words are kept, unattributed
        return (None, None, entry["text"].strip())
    return (at, party, entry["text"].strip())
