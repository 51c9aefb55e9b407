"""Six invented conversations: reserved numbers and domains only, agents who repeat what is said, one call of two customers."""

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from connectors.vcon import map_vcon

CONTROLLER = "example-travel"
LINE_CHARS_MIN = 24  # a shorter line may be anybody's
CLUES_MAX = 40
PEOPLE_MAX = 20
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


class Speaker(msgspec.Struct, frozen=True):
    """Someone on a conversation."""

    party_id: str
    role: str
    name: str
    identifiers: tuple[tuple[str, str], ...]


class Talk(msgspec.Struct, frozen=True):
    """One conversation; `lines` are (party id, text)."""

    name: str
    speakers: tuple[Speaker, ...]
    lines: tuple[tuple[str, str], ...]
    days_ago: int

    @property
    def id(self) -> str:
        """Its conversation id: of the form that a telephone system gives."""
        return str(uuid.uuid5(NAMESPACE, self.name))


class Person(msgspec.Struct, frozen=True):
    """A customer, as the demonstration needs one: who, on which conversations, and the clues that nobody else shares."""

    label: str  # what may be printed
    identifiers: list[dict[str, str]]
    conversations: list[str]
    clues: list[str]  # texts that must be found nowhere once this person is forgotten


def _customer(name: str, tel: str, email: str) -> Speaker:
    return Speaker(tel, "customer", name, (("tel", tel), ("email", email)))


def _agent(name: str, number: str) -> Speaker:
    return Speaker(number, "agent", name, (("employee", number),))


ROSALIND = _customer("Rosalind Achterberg", "+1 202 555 0123", "rosalind.achterberg@example.com")
TEODORO = _customer("Teodoro Vilanova", "+1 202 555 0147", "teodoro.vilanova@example.net")
HENRIETTA = _customer("Henrietta Okonjo", "+1 202 555 0162", "henrietta.okonjo@example.com")
LEOPOLD = _customer("Leopold Brandvold", "+1 202 555 0178", "leopold.brandvold@example.net")
MAGDA = _customer("Magda Szymborska", "+1 202 555 0191", "magda.szymborska@example.com")
JULES, PRIYA = _agent("Jules", "agent-07"), _agent("Priya", "agent-11")

TALKS = (
    Talk("rosalind-1", (ROSALIND, JULES), (
        ("agent-07", "Example Travel, you are speaking with Jules. May I have your name, please?"),
        (ROSALIND.party_id, "Yes, this is Rosalind Achterberg, I booked the night train to Lisbon."),
        ("agent-07", "Thank you, Rosalind Achterberg. I have your number as 202 555 0123, is that right?"),
        (ROSALIND.party_id, "That is right, and please put me in a compartment without perfume, I have severe asthma."),
        ("agent-07", "I have noted the asthma on your booking, Ms Achterberg."),
    ), 12),
    Talk("rosalind-2", (ROSALIND, TEODORO, PRIYA), (
        ("agent-11", "Example Travel, Priya here. I see two of you on the line."),
        (ROSALIND.party_id, "I am calling with my neighbour about the refund for the cancelled ferry."),
        (TEODORO.party_id, "Teodoro speaking, I paid for both tickets with my own savings account."),
        ("agent-11", "So the refund for Rosalind Achterberg goes to the account of Mr Vilanova?"),
        (TEODORO.party_id, "Yes, to my account, the one at the credit union in Takoma."),
    ), 9),
    Talk("teodoro-1", (TEODORO, JULES), (
        ("agent-07", "Example Travel, Jules speaking. How can I help?"),
        (TEODORO.party_id, "I would like a wheelchair at the platform for my mother on the nineteenth."),
        ("agent-07", "A wheelchair on the nineteenth, Mr Vilanova. It is reserved."),
    ), 8),
    Talk("henrietta-1", (HENRIETTA, PRIYA), (
        ("agent-11", "Good morning, Example Travel. Is this call about a booking?"),
        (HENRIETTA.party_id, "My luggage stayed behind in Bratislava and nobody has called me back."),
        ("agent-11", "I am sorry, Ms Okonjo. A courier brings it to Harbour Street tomorrow."),
    ), 6),
    Talk("leopold-1", (LEOPOLD, JULES), (
        ("agent-07", "Example Travel, Jules. This conversation is about the accident on the twelfth?"),
        (LEOPOLD.party_id, "I slipped on your gangway and my lawyer advised me to report it today."),
        ("agent-07", "I have written down, Mr Brandvold, that you slipped on the gangway."),
    ), 5),
    Talk("magda-1", (MAGDA, PRIYA), (
        ("agent-11", "Example Travel, Priya speaking."),
        (MAGDA.party_id, "Please move my sleeper berth from the ninth to the tenth of the month."),
        ("agent-11", "Your berth is now on the tenth, Ms Szymborska. You get a mail."),
    ), 2),
)  # fmt: skip


def events_of(talk: Talk, now: datetime, fresh: str = "") -> list[dict[str, Any]]:
    """The CloudEvents of a conversation. `fresh` makes new ids, as a second import with other software would."""
    start = now - timedelta(days=talk.days_ago)
    parties = [
        {"party_id": s.party_id, "role": s.role, "name": s.name,
         "identifiers": [{"kind": kind, "value": value} for kind, value in s.identifiers]}
        for s in talk.speakers
    ]  # fmt: skip
    opened = {"channel": "voice", "direction": "inbound", "parties": parties, "purposes": ["service"], "lawful_basis": "art6_1_b"}
    spoken = [{"party_id": who, "text": text, "offset_ms": 4_000 * n} for n, (who, text) in enumerate(talk.lines)]
    plan: list[tuple[str, int, dict[str, Any]]] = [
        ("call.started", 0, opened), ("call.transcribed", 40, {"segments": spoken}),
        ("call.ended", 90, {"disposition": "solved"}),
    ]  # fmt: skip
    return [
        cloud_event(type_, start + timedelta(seconds=after), {"conversation_id": talk.id, **data}, f"{talk.name}/{n}{fresh}")
        for n, (type_, after, data) in enumerate(plan)
    ]


def cloud_event(type_: str, time: datetime, data: dict[str, Any], id_: str = "") -> dict[str, Any]:
    """One CloudEvent of the demonstration's controller."""
    return {
        "specversion": "1.0", "id": id_ or str(uuid.uuid4()), "source": "demo/acd", "type": type_, "controller": CONTROLLER,
        "time": time.astimezone(UTC).isoformat(), "datacontenttype": "application/json", "data": data,
    }  # fmt: skip


def write_inbox(folder: Path, now: datetime) -> None:
    """Write the conversations as files: one event a line, and the last one as a vCon."""
    folder.mkdir()
    for talk in TALKS[:-1]:
        text = "".join(json.dumps(event) + "\n" for event in events_of(talk, now))
        (folder / f"{talk.name}.jsonl").write_text(text, encoding="utf-8")
    last = TALKS[-1]
    (folder / f"{last.name}.vcon.json").write_text(json.dumps(_vcon(last, now)), encoding="utf-8")


def _vcon(talk: Talk, now: datetime) -> dict[str, Any]:
    start = now - timedelta(days=talk.days_ago)
    parties = [{"name": s.name, "role": s.role, **_addresses(s)} for s in talk.speakers]
    places = {s.party_id: n for n, s in enumerate(talk.speakers)}
    dialog = [
        {"type": "text", "start": (start + timedelta(seconds=4 * n)).isoformat(), "parties": [places[who]],
         "originator": places[who], "mimetype": "text/plain", "body": text}
        for n, (who, text) in enumerate(talk.lines)
    ]  # fmt: skip
    return {"vcon": "0.0.1", "uuid": talk.id, "created_at": start.isoformat(), "parties": parties, "dialog": dialog}


def _addresses(speaker: Speaker) -> dict[str, str]:
    known = dict(speaker.identifiers)
    return {"tel": known["tel"].replace(" ", ""), "mailto": known["email"]} if "tel" in known else {"mailto": "priya@example.com"}


def people_of(talks: Sequence[Talk]) -> list[Person]:
    """The customers, in order of appearance; what each of them says, and is called, is theirs alone."""
    found: dict[str, Person] = {}
    for talk in talks:
        for speaker in talk.speakers:
            if speaker.role != "customer":
                continue
            ids = [{"kind": kind, "value": value} for kind, value in speaker.identifiers]
            person = found.setdefault(speaker.party_id, Person(speaker.name, ids, [], [speaker.name, *(i["value"] for i in ids)]))
            person.conversations.append(talk.id)
            for who, text in talk.lines:
                if who == speaker.party_id or (who.startswith("agent") and speaker.name in text):
                    person.clues.append(text)
    return list(found.values())


def people_in(folder: Path) -> list[Person]:
    """Customers of the vCons in `folder` who have an address and one conversation; printed by number only."""
    found: list[Person] = []
    for started, lines in _conversations(folder):
        parties = {p["party_id"]: p for p in started["parties"]}
        asked = [p for p in parties.values() if p["role"] not in ("agent", "supervisor", "bot") and p["identifiers"]]
        if len(asked) != 1:
            continue
        ids = [{"kind": i["kind"], "value": i["value"]} for i in asked[0]["identifiers"] if i["kind"] in ("tel", "email")]
        said = [s["text"] for s in lines if s.get("party_id") == asked[0]["party_id"] and len(s["text"]) >= LINE_CHARS_MIN]
        known = {i["value"] for person in found for i in person.identifiers}
        if ids and said and not any(i["value"] in known for i in ids):
            clues = [*(i["value"] for i in ids), *said][:CLUES_MAX]
            found.append(Person(f"customer {len(found) + 1}", ids, [started["conversation_id"]], clues))
    return _alone(folder, found)


def _alone(folder: Path, people: list[Person]) -> list[Person]:
    """Keep who appears in one conversation, with the clues that stand in no other one."""
    texts = [(started["conversation_id"], json.dumps([started, lines])) for started, lines in _conversations(folder)]
    kept = []
    for person in people:
        mine = person.conversations[0]
        others = " ".join(text for conversation, text in texts if conversation != mine)
        clues = [clue for clue in person.clues if json.dumps(clue)[1:-1] not in others]
        if all(i["value"] in clues for i in person.identifiers) and len(clues) > len(person.identifiers):
            kept.append(msgspec.structs.replace(person, clues=clues))
        if len(kept) == PEOPLE_MAX:
            break
    return kept


def _conversations(folder: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name.lower().endswith((".vcon", ".vcon.json")):
            try:
                events = map_vcon(file.read_bytes())
            except Exception:  # noqa: S112 -- the door says what is wrong with it; here it is only passed over
                continue
            data = [(event.type, json.loads(event.data)) for event in events]
            started = next((d for type_, d in data if type_ == "call.started"), None)
            if started is not None:
                yield started, [s for type_, d in data if type_ == "call.transcribed" for s in d["segments"]]
