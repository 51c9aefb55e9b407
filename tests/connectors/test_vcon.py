"""A vCon becomes the contract's events with every word in them, or is refused by code and path, never by value."""

import base64
import copy
import json
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.vcon import DOCUMENT_BYTES_MAX, MappedEvent, VconRefused, map_vcon
from schemas.events import BY_TYPE

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
UUID = "019f15a6-a752-826f-b9a2-279e0d16bc46"
AGENT = {"tel": "", "mailto": "agent@example.com", "name": "Jo Bloggs", "role": "agent", "id": "agent@example.com"}
CALLER = {"tel": "+12025550123", "mailto": "ann@example.org", "name": "+12025550123", "role": "contact"}
START = datetime(2025, 3, 6, 20, 0, tzinfo=UTC)


def at(secs: float) -> str:
    return (START + timedelta(seconds=secs)).isoformat()


def said(secs: float, text: str | None, **more: Any) -> dict[str, Any]:
    row = {"type": "text", "start": at(secs), "parties": [0, 1], "mimetype": "text/plain", **more}
    return row if text is None else row | {"body": text}


def vcon(**fields: Any) -> dict[str, Any]:
    return {"vcon": "0.0.1", "uuid": UUID, "created_at": at(600), "parties": [AGENT, CALLER]} | fields


def mapped(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    events = map_vcon(json.dumps(document).encode())
    check(events)
    return [(event.type, json.loads(event.data)) for event in events]


def check(events: list[MappedEvent]) -> None:
    """The contract's own classes take every event, and the events hang together."""
    assert (events[0].type, events[-1].type) == ("call.started", "call.ended")
    conversation = json.loads(events[0].data)["conversation_id"]
    parties = {party["party_id"] for party in json.loads(events[0].data)["parties"]}
    assert len({event.id for event in events}) == len(events)
    for event in events:
        msgspec.json.decode(event.data, type=BY_TYPE[event.type])
        assert (event.id.partition("/")[0], event.source) == (conversation, "vcon")
        assert event.time.utcoffset() == timedelta() and events[0].time <= event.time <= events[-1].time
        assert len(event.data) < 1 << 20
        data = json.loads(event.data)
        assert data["conversation_id"] == conversation
        assert {segment["party_id"] for segment in data.get("segments", []) if "party_id" in segment} <= parties


def of(events: list[tuple[str, dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    return [data for name, data in events if name == kind]


def lines(document: dict[str, Any]) -> list[tuple[str | None, int | None, str]]:
    rows = [row for data in of(mapped(document), "call.transcribed") for row in data["segments"]]
    return [(row.get("party_id"), row.get("offset_ms"), row["text"]) for row in rows]


def refusal(document: Any) -> tuple[str, str]:
    with pytest.raises(VconRefused) as refused:
        map_vcon(document if isinstance(document, bytes) else json.dumps(document).encode())
    assert str(refused.value) == f"{refused.value.code}: {refused.value.field}"
    return refused.value.code, refused.value.field


def test_a_written_conversation_keeps_its_lines_speakers_and_times() -> None:
    dialog = [said(60, "Later.", originator=1), said(0, "Hello.", originator=0), said(90, "Who?"), said(95, "I.", parties=[1])]
    document = vcon(dialog=[*dialog, said(99, "One.", parties=1), said(110, " \n"), said(120, None)])
    expected = [("0", 0, "Hello."), ("1", 60_000, "Later."), (None, 90_000, "Who?"), ("1", 95_000, "I."), ("1", 99_000, "One.")]
    assert lines(document) == expected
    started = of(mapped(document), "call.started")[0]
    assert (started["conversation_id"], started["channel"], started["direction"]) == (UUID, "chat", "inbound")
    assert [kind for kind, _ in mapped(document)] == ["call.started", *["call.transcribed"] * 5, "call.ended"]
    assert map_vcon(json.dumps(document).encode())[-1].time == START + timedelta(seconds=120)


def test_parties_are_indices_with_their_identifiers() -> None:
    odd = {
        "tel": "tel:+12025550199;ext=7", "mailto": "mailto:Bo@Example.com?subject=x", "sip": "sip:bo@example.com",
        "did": "did:example:123", "gmlpstn": "x-1", "name": " bo@example.COM ", "meta": {"role": "Supervisor"}, "id": 17,
    }  # fmt: skip
    parties = of(mapped(vcon(parties=[AGENT, CALLER, odd, {}, {"role": "wizard"}])), "call.started")[0]["parties"]
    assert parties == [
        {"party_id": "0", "role": "agent", "name": "Jo Bloggs", "identifiers": [{"kind": "email", "value": "agent@example.com"}]},
        {"party_id": "1", "role": "customer", "identifiers": [
            {"kind": "tel", "value": "+12025550123"}, {"kind": "email", "value": "ann@example.org"}]},
        {"party_id": "2", "role": "supervisor", "identifiers": [
            {"kind": "tel", "value": "+12025550199"}, {"kind": "email", "value": "Bo@Example.com"},
            {"kind": "social", "value": "sip:bo@example.com"}, {"kind": "social", "value": "did:example:123"},
            {"kind": "social", "value": "x-1"}]},
        {"party_id": "3", "role": "customer", "identifiers": []},
        {"party_id": "4", "role": "wizard", "identifiers": []},
    ]  # fmt: skip


def test_a_recording_starts_and_stops_and_an_inline_one_has_no_uri() -> None:
    linked = {"type": "recording", "start": at(10), "duration": 33.5, "parties": [0, 1], "url": "https://example.com/a.mp3"}
    inline = {"type": "recording", "start": at(60), "encoding": "base64url", "body": "UklGRg", "mediatype": "audio/x-wav"}
    events = map_vcon(json.dumps(vcon(dialog=[linked, inline])).encode())
    check(events)
    assert [(event.type, (event.time - START).total_seconds()) for event in events[1:-1]] == [
        ("call.recording_started", 10), ("call.recording_stopped", 43.5),
        ("call.recording_started", 60), ("call.recording_stopped", 60),
    ]  # fmt: skip
    first, second = json.loads(events[1].data), json.loads(events[3].data)
    assert (first["uri"], first["confirmed"], "uri" in second) == ("https://example.com/a.mp3", True, False)
    assert first["recording_id"] != second["recording_id"]
    assert "UklGRg" not in str(events) and "metadata" not in json.loads(events[0].data)


MAIL = 'multipart/mixed; \n\tboundary="b1"'
MAIL_BODY = (
    '--b1\r\nContent-Type: multipart/alternative; boundary="b2"\r\n\r\n--b2\r\nContent-Type: text/plain; charset=UTF-8\r\n'
    "Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n--b2\r\nContent-Type: text/html\r\n\r\n<b>Twin</b>\r\n"
    "--b2--\r\n--b1\r\nContent-Type: text/html\r\n\r\n<p>Lone</p>\r\n--b1\r\nContent-Type: image/png\r\n"
    "Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--b1--\r\n"
)


def test_a_mail_gives_its_text_without_html_twins_and_counts_pictures() -> None:
    mails = [{"mailto": "ann@example.org"}, {"mailto": "agent@example.com"}]
    document = vcon(parties=mails, subject="Account", dialog=[said(0, MAIL_BODY, mimetype="", mediatype=MAIL)])
    assert lines(document) == [(None, 0, "Grüße\n\n<p>Lone</p>")]
    started = of(mapped(document), "call.started")[0]
    assert (started["channel"], started["metadata"]) == ("email", {"subject": "Account", "attachments": "1"})
    whole = said(0, "Subject: Hi\r\nContent-Type: text/plain; charset=nonsense\r\n\r\nBody", mimetype="message/rfc822")
    assert lines(vcon(dialog=[whole])) == [(None, 0, "Hi\n\nBody")]


HEARD = {"type": "transcript", "body": "x"}


@pytest.mark.parametrize(
    ("fields", "channel", "direction"),
    [
        ({}, "voice", "inbound"),
        ({"dialog": [said(0, "x")]}, "chat", "inbound"),
        ({"dialog": [said(0, "x", message_id="<1@example.com>")]}, "chat", "inbound"),
        ({"dialog": [said(0, "x", message_id="<1@example.com>")], "parties": [AGENT, AGENT]}, "email", "inbound"),
        ({"dialog": [said(0, None, meta={"direction": "out"})], "analysis": [HEARD]}, "voice", "outbound"),
        ({"dialog": [{"type": "recording"}, said(0, "x", meta={"direction": "internal"})]}, "voice", "internal"),
        ({"dialog": [{"type": "recording", "mimetype": "video/mp4", "meta": {"direction": "up"}}]}, "video", "inbound"),
        ({"dialog": [{"type": "incomplete", "start": at(0), "disposition": "busy"}]}, "voice", "inbound"),
    ],
)  # fmt: skip
def test_channel_and_direction_follow_from_the_dialogue(fields: dict[str, Any], channel: str, direction: str) -> None:
    started = of(mapped(vcon(**fields)), "call.started")[0]
    assert (started["channel"], started["direction"]) == (channel, direction)


DEEPGRAM = {"results": {"channels": [{"alternatives": [{"transcript": "No.", "paragraphs": {"paragraphs": [
    {"sentences": [{"text": "Hello."}, {"text": "Hi."}], "speaker": 0, "start": 1.25}]}}]}]}}  # fmt: skip
TRANSCRIPTS: list[tuple[Any, str, list[tuple[str | None, int | None, str]]]] = [
    ("One.\n\nTwo,\ntoo.\n \n\nThree.", "none", [(None, None, "One."), (None, None, "Two,\ntoo."), (None, None, "Three.")]),
    ({"transcript": "One.\n\nTwo.", "confidence": 0.9}, "none", [(None, None, "One."), (None, None, "Two.")]),
    ([{"parties": 0, "start": at(12.5), "text": "Hi."}, {"party": 1, "start": 3, "text": "Ho."}, {"parties": [1], "text": "Ha."}],
     "json", [("0", 12_500, "Hi."), ("1", 13_000, "Ho."), ("1", None, "Ha.")]),
    ([{"party": 9, "start": 1, "text": "Who?"}, {"start": "soon", "text": "When?"}], "json",
     [(None, None, "Who?"), (None, None, "When?")]),
    (DEEPGRAM, "json", [(None, 11_250, "Hello. Hi.")]),
    ({"results": {"channels": [{"alternatives": [{"transcript": "No."}]}]}}, "json", [(None, None, "No.")]),
    ({"text": "All.", "segments": [{"start": 0.5, "text": "Part."}]}, "json", [(None, 10_500, "Part.")]),
    ('[{"text": "Within."}]', "json", [(None, None, "Within.")]),
    (["One.", {"text": "Two."}], "json", [(None, None, "One."), (None, None, "Two.")]),
    ("just text", "json", [(None, None, "just text")]),
    (base64.urlsafe_b64encode("Grüße?>".encode()).decode().rstrip("="), "base64url", [(None, None, "Grüße?>")]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "encoding", "expected"), TRANSCRIPTS)
def test_a_transcript_in_any_known_form_becomes_lines(body: Any, encoding: str, expected: list[Any]) -> None:
    analysis = {"type": "transcript", "dialog": [0], "vendor": "x", "mediatype": "text/plain", "encoding": encoding, "body": body}
    document = vcon(dialog=[{"type": "recording", "start": at(10)}, said(0, None)], analysis=[analysis])
    assert lines(document) == expected


def test_a_transcript_of_an_unknown_form_is_kept_as_a_note() -> None:
    for body in ({"weird": ["Bo said so"]}, [{"said": "Bo said so"}], {"results": {"channels": [{"x": "Bo said so"}]}}):
        events = mapped(vcon(analysis=[{"type": "transcript", "body": body, "encoding": "json"}]))
        assert "Bo said so" in of(events, "call.annotated")[0]["note"]


def test_a_diarized_repetition_is_left_out_and_another_text_is_not() -> None:
    analysis = [{"type": "diarized", "body": "One. \n\n Two."}, {"type": "transcript", "body": {"transcript": "One.\n\nTwo."}}]
    assert [line[2] for line in lines(vcon(analysis=analysis))] == ["One.", "Two."]
    analysis[0]["body"] = "A: One.\n\nB: Two."
    assert [line[2] for line in lines(vcon(analysis=analysis))] == ["One.", "Two.", "A: One.", "B: Two."]


def test_summaries_and_text_attachments_are_notes_and_other_attachments_are_counted() -> None:
    fact = {"type": "call_ended", "encoding": "none", "body": {"customerNumber": "+12025550123"}}
    note = {"type": "memo", "party": 1, "body": "Call back"}
    picture = {"type": "x", "encoding": "base64url", "mediatype": "image/png", "body": "iVBORw"}
    tags = {"type": "tags", "encoding": "json", "body": ["topic: billing", "vip"]}
    away = {"type": "x", "url": "https://example.com/x"}
    mood = {"type": "sentiment", "body": {"mood": "calm"}, "encoding": "json"}
    summary = {"type": "summary", "body": "They talked."}
    events = mapped(vcon(parties=[CALLER, AGENT], analysis=[summary, mood, away], attachments=[fact, note, picture, tags, away]))
    notes = [(data["author"], data["note"]) for data in of(events, "call.annotated")]
    assert notes == [("1", "They talked."), ("1", '{"mood":"calm"}'), ("1", "Call back")]
    assert of(events, "call.started")[0]["metadata"] == {"attachments": "2", "linked": "2"}
    assert [(data["tag"], data.get("value")) for data in of(events, "call.tagged")] == [("topic", "billing"), ("vip", None)]
    alone = mapped(vcon(parties=[CALLER], analysis=[summary]))
    assert of(alone, "call.annotated")[0]["author"] == "0"


def test_dispositions_end_the_call_or_tag_it() -> None:
    meta = {"disposition": "ANSWERED", "agent_selected_disposition": "VM Left", "engaged": False, "other_disposition": ""}
    events = mapped(vcon(dialog=[said(0, None, meta=meta)]))
    assert of(events, "call.ended")[0]["disposition"] == "ANSWERED"
    tags = [(data["tag"], data["value"]) for data in of(events, "call.tagged")]
    assert tags == [("agent_selected_disposition", "VM Left")]
    assert of(mapped(vcon(dialog=[{"type": "incomplete", "disposition": "busy"}])), "call.ended")[0]["disposition"] == "busy"


def test_long_conversations_come_in_chunks_and_long_texts_in_pieces() -> None:
    many = mapped(vcon(dialog=[said(0, f"Line {n}", originator=0) for n in range(450)]))
    assert [len(data["segments"]) for data in of(many, "call.transcribed")] == [200, 200, 50]
    heavy = vcon(
        dialog=[said(n, "\x01" * 60_000, originator=0) for n in range(5)], analysis=[{"type": "summary", "body": "é" * 70_000}]
    )
    events = mapped(heavy)
    assert [len(data["segments"]) for data in of(events, "call.transcribed")] == [1] * 5
    assert [len(data["note"]) for data in of(events, "call.annotated")] == [65_536, 4_464]
    assert [len(line[2]) for line in lines(vcon(dialog=[said(0, "x" * 70_000)]))] == [65_536, 4_464]


def test_a_conversation_that_has_grown_brings_only_what_is_new() -> None:
    said_before = [said(n, f"Line {n}", originator=0) for n in range(3)]
    before = map_vcon(json.dumps(vcon(dialog=said_before)).encode())
    grown = vcon(dialog=[*said_before, said(3, "One more", originator=0), said(3, "One more", originator=0)])
    new = {event.id: event for event in map_vcon(json.dumps(grown).encode()) if event.id not in {e.id for e in before}}
    told = [(event.type, json.loads(event.data).get("segments")) for event in new.values()]
    assert [kind for kind, _ in told] == ["call.transcribed", "call.ended"]
    assert [segment["text"] for segment in told[0][1] or []] == ["One more", "One more"]


def test_missing_uuid_and_created_at_have_their_stand_ins() -> None:
    document = vcon(dialog=[said(30, "Hi", start="2025-03-06T15:00:30-05:00"), said(0, "Ho", start="2025-03-06T20:00:20.5")])
    del document["created_at"], document["uuid"]
    first, again = (map_vcon(json.dumps(document).encode()) for _ in range(2))
    check(first)
    assert first == again and first[0].time == START + timedelta(seconds=20.5)
    assert json.loads(first[0].data)["conversation_id"].startswith("vcon-")
    other = map_vcon(json.dumps(document, indent=1).encode())
    assert other[0].id != first[0].id
    assert refusal({"parties": [CALLER], "dialog": []}) == ("vcon-broken", "created_at")
    end = map_vcon(json.dumps(vcon(created_at=at(9e6), dialog=[said(0, "Hi", duration=4)])).encode())[-1].time
    assert end == START + timedelta(seconds=4)


def test_the_call_ends_no_sooner_than_its_last_word() -> None:
    heard = [{"type": "transcript", "encoding": "json", "body": [{"start": 50, "text": "Bye"}]}]
    events = map_vcon(json.dumps(vcon(dialog=[{"type": "recording", "start": at(0)}], analysis=heard)).encode())
    check(events)
    assert events[-1].time == START + timedelta(seconds=50)


SECRET = "+12025550177"
REFUSED: list[tuple[str, str, Any]] = [
    ("vcon-broken", "", b""),
    ("vcon-broken", "", b"\xff{}"),
    ("vcon-broken", "", b'"\xff"'),
    ("vcon-broken", "", b"eyJhbGciOiJSUzI1NiJ9.e30.x"),
    ("vcon-broken", "", b"[" * 1_000_000),
    ("vcon-broken", "", b'{"x":' * 200_000),
    ("vcon-broken", "", [1]),
    ("vcon-broken", "parties", {"uuid": UUID}),
    ("vcon-broken", "parties", vcon(parties=[])),
    ("vcon-broken", "parties", vcon(parties={"tel": SECRET})),
    ("vcon-broken", "parties[0]", vcon(parties=[SECRET])),
    ("vcon-broken", "parties[0].tel", vcon(parties=[{"tel": [SECRET]}])),
    ("vcon-broken", "parties[0].tel", vcon(parties=[{"tel": SECRET * 100}])),
    ("vcon-broken", "parties[0].meta", vcon(parties=[{"meta": SECRET}])),
    ("vcon-broken", "uuid", vcon(uuid=SECRET)),
    ("vcon-broken", "uuid", vcon(uuid=12025550177)),
    ("vcon-broken", "created_at", vcon(created_at=SECRET)),
    ("vcon-broken", "created_at", vcon(created_at=1741291200)),
    ("vcon-broken", "created_at", vcon(created_at="0001-01-01T00:00:00+05:00")),
    ("vcon-broken", "dialog", vcon(dialog=SECRET)),
    ("vcon-broken", "dialog[1]", vcon(dialog=[said(0, "x"), None])),
    ("vcon-broken", "dialog[0].type", vcon(dialog=[{"start": at(0)}])),
    ("vcon-broken", "dialog[0].start", vcon(dialog=[said(0, "x", start="9999-12-31T23:59:59Z")])),
    ("vcon-broken", "dialog[0].duration", vcon(dialog=[said(0, "x", duration=-1)])),
    ("vcon-broken", "dialog[0].duration", vcon(dialog=[said(0, "x", duration=True)])),
    ("vcon-broken", "dialog[0].duration", vcon(dialog=[said(0, "x", duration=1e300)])),
    ("vcon-broken", "dialog[0].parties", vcon(dialog=[said(0, "x", parties=[0, 2])])),
    ("vcon-broken", "dialog[0].parties", vcon(dialog=[said(0, "x", parties=[[0, SECRET], None])])),
    ("vcon-broken", "dialog[0].originator", vcon(dialog=[said(0, "x", originator=True)])),
    ("vcon-broken", "dialog[0].encoding", vcon(dialog=[said(0, "x", encoding="rot13")])),
    ("vcon-broken", "dialog[0].body", vcon(dialog=[said(0, "%%%", encoding="base64url")])),
    ("vcon-broken", "dialog[0].body", vcon(dialog=[said(0, "_w", encoding="base64url")])),
    ("vcon-broken", "dialog[0].meta.disposition", vcon(dialog=[said(0, None, meta={"disposition": "a\nb"})])),
    ("vcon-broken", "dialog[0].meta", vcon(dialog=[said(0, None, meta={"x" * 300 + "_disposition": "a"})])),
    ("vcon-broken", "dialog[0].meta", vcon(dialog=[said(0, None, meta={SECRET + "_disposition": 1})])),
    ("vcon-broken", "dialog[0].url", vcon(dialog=[{"type": "recording", "url": "https://example.com/" + "x" * 5_000}])),
    ("vcon-broken", "analysis[0].type", vcon(analysis=[{"body": "x"}])),
    ("vcon-broken", "analysis[0].dialog", vcon(analysis=[{"type": "summary", "dialog": 0, "body": "x"}])),
    ("vcon-broken", "attachments[0].party", vcon(attachments=[{"party": 7, "body": "x"}])),
    ("vcon-not-supported-yet", "", b" " * (DOCUMENT_BYTES_MAX + 1)),
    ("vcon-not-supported-yet", "signatures", {"payload": "e30", "signatures": [{}]}),
    ("vcon-not-supported-yet", "ciphertext", {"unprotected": {}, "ciphertext": "x"}),
    ("vcon-not-supported-yet", "amended", vcon(amended={"uuid": UUID})),
    ("vcon-not-supported-yet", "redacted", vcon(redacted={"uuid": UUID})),
    ("vcon-not-supported-yet", "group", vcon(group=[{"uuid": UUID}])),
    ("vcon-not-supported-yet", "critical", vcon(critical=["x"])),
    ("vcon-not-supported-yet", "dialog[0].type", vcon(dialog=[{"type": "hologram", "start": at(0)}])),
    ("vcon-not-supported-yet", "parties", vcon(parties=[CALLER] * 65)),
    ("vcon-not-supported-yet", "dialog", vcon(dialog=[{}] * 20_001)),
    ("vcon-not-supported-yet", "dialog[0].body", vcon(dialog=[said(0, MAIL_BODY + "boundary=" * 20, mimetype=MAIL)])),
    ("vcon-not-supported-yet", "dialog[3].body", vcon(dialog=[said(0, "\r\n" * 60_000, mimetype=MAIL)] * 4)),
    ("vcon-not-supported-yet", "dialog[1].body", vcon(dialog=[said(0, "\r--b1\r" * 15_000, mimetype=MAIL)] * 2)),
]


@pytest.mark.parametrize(("code", "field", "document"), REFUSED, ids=[f"{n}-{row[1]}" for n, row in enumerate(REFUSED)])
def test_what_cannot_be_mapped_is_refused_by_code_and_path_alone(code: str, field: str, document: Any) -> None:
    assert refusal(document) == (code, field)
    assert SECRET not in code + field


def test_empty_marks_of_unsupported_forms_say_nothing() -> None:
    assert mapped(vcon(redacted={}, amended={}, group=[], critical=[], analysis=None, attachments=None, dialog=None))


RICH = vcon(
    subject="s",
    dialog=[said(0, "Hi", originator=0, meta={"disposition": "d", "direction": "in"}), said(1, MAIL_BODY, mimetype=MAIL),
            {"type": "recording", "start": at(0), "duration": 3, "url": "https://example.com", "parties": [[0], None]}],
    analysis=[{"type": "transcript", "dialog": 0, "body": DEEPGRAM, "encoding": "json"}, {"type": "summary", "body": "x"}],
    attachments=[{"type": "tags", "encoding": "json", "body": ["a:b"]}],
)  # fmt: skip
JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 7, 2**70, 0.5, 1e308, "", "x", "\n", at(3), "e30", [], [[]], [None], ["x"], [0, 1], {}, {"text": "x"}]
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))][0 if path else 1 :]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places(RICH)), JUNK), min_size=1, max_size=3))
def test_any_damage_is_refused_or_still_gives_valid_events(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = copy.deepcopy(RICH)
    for path, junk in changes:
        node: Any = document
        try:
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = copy.deepcopy(junk)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    try:
        check(map_vcon(json.dumps(document).encode()))
    except VconRefused as refused:
        assert refused.field in ("", *document) or "[" in refused.field


EXAMPLES = {
    "ab.vcon": ("vcon-broken", "created_at"),
    "ab_call_ext_rec.vcon": None,
    "ab_call_ext_rec_amended.vcon": ("vcon-not-supported-yet", "amended"),
    "ab_call_ext_rec_analysis.vcon": None,
    "ab_call_ext_rec_encrypted.vcon": ("vcon-not-supported-yet", "ciphertext"),
    "ab_call_ext_rec_redacted.vcon": ("vcon-not-supported-yet", "redacted"),
    "ab_call_ext_rec_signed.vcon": ("vcon-not-supported-yet", "signatures"),
    "ab_call_int_rec.vcon": None,
    "ab_email_acct_prob_thread.vcon": None,
    "ab_email_prob_followup_text_thread.vcon": None,
}


def real_input(name: str) -> list[Path]:
    if not (DATA / name).is_dir():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"NOT RUN: no real input at {DATA / name}", stacklevel=2)
        pytest.skip(f"NOT RUN: no real input at {DATA / name}")
    return sorted((DATA / name).iterdir())


def test_all_three_hundred_real_calls_are_mapped_with_every_word() -> None:
    files = [path for path in real_input("calls") if path.suffix == ".json"]
    assert len(files) == 300
    for path in files:
        document = path.read_bytes()
        events = map_vcon(document)
        check(events)
        told = " ".join("".join(event.data.decode() for event in events).split())
        tree = json.loads(document)
        texts = [row["body"] for row in tree["dialog"] if row["type"] == "text" and "body" in row]
        for row in tree["analysis"]:
            body = row["body"]["transcript"] if isinstance(row["body"], dict) else row["body"]
            texts += body.split("\n\n")
        assert all(json.dumps(text, ensure_ascii=False)[1:-1] in told for text in texts), path.name


def test_each_ietf_example_is_mapped_or_refused_with_its_code() -> None:
    found = {}
    for path in real_input("vcon"):
        if path.suffix == ".vcon":
            try:
                check(map_vcon(path.read_bytes()))
                found[path.name] = None
            except VconRefused as refused:
                found[path.name] = (refused.code, refused.field)
    assert found == EXAMPLES
