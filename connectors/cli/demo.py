"""The main job end to end on this machine: each step checks what it claims, and one claim that does not hold fails all."""

import json
import shutil
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from connectors.cli.demo_data import (
    CONTROLLER,
    LINE_CHARS_MIN,
    TALKS,
    Person,
    cloud_event,
    events_of,
    people_in,
    people_of,
    write_inbox,
)  # fmt: skip
from connectors.cli.demo_later import bad_input, breach_clock, holds_and_retention, proof, quarantine_codes
from connectors.cli.demo_stage import Stage, found_in_text, found_on_disk, until
from connectors.cli.demo_world import VIEWS, World, world_in
from connectors.cli.faults import Refused, Unanswered
from connectors.cli.output import Format, show
from connectors.cli.publish import VCON_SUFFIXES, Publisher
from connectors.vcon import map_vcon
from engine.sealing import Erased
from schemas.topics import ProtectedConversation

HOUR_MS = 3_600_000
PEOPLE = 3  # one is forgotten, one is the other, one is held
KEYS = "keys.wrapped"
NEXT = """
What to try next
  ./run up --token-file admin.token            a service of your own on http://127.0.0.1:8080 (docs at /docs)
  ./run demo DIR                               the same on vCon files of yours; nothing personal is printed
  export CONSENTINEL_TOKEN_FILE=admin.token    and then, with the service running:
  ./run publish FILE --controller C            your own CloudEvents and vCons
  ./run decide --use dial --controller C --identifier tel:+12025550100 --channel voice --purpose marketing
  ./run audit verify                           recompute the audit log against what was signed"""


def run_demo(folder: Path | None, output: Format) -> bool:
    """Run all steps, on the vCons in `folder` or on conversations of our own. Returns whether every claim held."""
    if folder is not None and not folder.is_dir():
        raise Unanswered("there is no such folder")
    stage = Stage(output)
    place = Path(tempfile.mkdtemp(prefix="consentinel-demo-"))
    try:
        stage.say("A deployment in a temporary folder, with real doors on a loopback port. Its clock can be moved; yours is not.")
        with world_in(place) as world:
            clues = _play(stage, world, folder)
        proof(stage, world, clues)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    claims = [{"step": step, "claim": claim, "holds": holds} for step, claim, holds in stage.claims]
    if output is Format.JSON:
        show({"ok": not stage.failed, "claims": claims}, output)
    elif stage.failed:
        stage.console.print(Text(f"\n{len(stage.failed)} of {len(claims)} claims did NOT hold.", style="bold red"))
    else:
        stage.console.print(Text(f"\nAll {len(claims)} claims were checked and hold.", style="bold green"))
        stage.say(NEXT)
    return not stage.failed


def _play(stage: Stage, world: World, folder: Path | None) -> list[str]:
    """All steps but the proof; returns the clues of those who took part."""
    inbox, people = folder, list[Person]()
    if inbox is not None:
        _publish(stage, world, inbox)
        people = [person for person in people_in(inbox) if _is_here(world, person)][:PEOPLE]
        if len(people) < PEOPLE:
            stage.say(f"Fewer than {PEOPLE} customers there have an address and one conversation: six of our own are added.")
    if inbox is None or len(people) < PEOPLE:
        inbox, people = world.folder / "inbox", people_of(TALKS)
        write_inbox(inbox, world.clock.now())
        _publish(stage, world, inbox)
    forgotten, other, held = people[0], people[1], people[2]
    _at_rest(stage, world, people, other)
    _consent(stage, world, forgotten)
    _withdrawal(stage, world, forgotten)
    _erasure(stage, world, inbox, forgotten, other)
    holds_and_retention(stage, world, held)
    breach_clock(stage, world)
    bad_input(stage, world)
    return [clue for person in people for clue in person.clues]


def _is_here(world: World, person: Person) -> bool:
    """Whether the door took this person's conversation: of a folder of somebody's, nobody knows."""
    try:
        return set(person.conversations) <= world.conversations(person.identifiers)
    except Refused:
        return False


def _publish(stage: Stage, world: World, inbox: Path) -> None:
    stage.step("Conversations are published")
    settings = cloud_event("controller.configured", world.clock.now(), {
        "default_region": "US", "own_identifiers": [], "employee_basis": "contract", "four_eyes": False,
        "sealed_fields": {}, "targets": [],
    })  # fmt: skip
    world.doors["administrator"].take(settings)
    before = Counter(quarantine_codes(world))
    tally = Publisher(world.doors["publisher"], CONTROLLER).publish(inbox)
    counted = {"files": tally.files, "accepted": tally.accepted, "refused": tally.refused, "events they became": tally.events}
    stage.table([counted])
    if tally.refusals:
        counts = Counter((refusal.code, refusal.field) for refusal in tally.refusals)
        stage.table([{"refused as": code, "at": field, "documents": n} for (code, field), n in counts.most_common()])
    explained = tally.accepted + tally.refused >= tally.files > 0 and all(refusal.code for refusal in tally.refusals)
    stage.check("every document was accepted, or refused with a code", explained)
    stage.check("everything accepted was folded", world.wait_until_folded())
    stage.soon("every conversation has its protected view", lambda: not _unseen(world, inbox, tally.refused))
    codes = Counter(quarantine_codes(world))
    if inbox.parent == world.folder:
        stage.check("nothing of it was refused or set aside in quarantine", not tally.refused and codes == before)
    elif codes:
        stage.table([{"set aside in quarantine as": code, "events": n} for code, n in codes.most_common()])


def _unseen(world: World, inbox: Path, refused: int) -> set[str]:
    """Conversations of somebody with an address that have no view; with refusals nobody can say which were meant."""
    seen = {conversation for _, conversation in world.views()}
    started = [event["data"] for event in _events_in(world, inbox) if event["type"] == "call.started"]
    wanted = {data["conversation_id"] for data in started if any(p["identifiers"] for p in data["parties"] if p["role"] != "bot")}
    return set() if refused and seen else wanted - seen


def _events_in(world: World, inbox: Path, fresh: str = "") -> list[dict[str, Any]]:
    """The events that the inbox stands for; `fresh` gives them new ids."""
    if inbox.parent == world.folder:
        return [event for talk in TALKS for event in events_of(talk, world.clock.now(), fresh)]
    found = []
    for file in sorted(inbox.rglob("*")):
        if file.is_file() and file.name.lower().endswith(VCON_SUFFIXES):
            try:
                mapped = map_vcon(file.read_bytes())
            except Exception:  # noqa: S112 -- refused at the door already
                continue
            found += [cloud_event(e.type, e.time, json.loads(e.data), e.id + fresh) for e in mapped]
    return found


def _at_rest(stage: Stage, world: World, people: list[Person], other: Person) -> None:
    stage.step("What rests on disk cannot be read")
    clues = [clue for person in people for clue in person.clues]
    stage.say(f"{len(clues)} clues (names, numbers, addresses, lines) are searched in every byte of data folder and key ring.")
    control = found_in_text(clues, world.openings())
    stage.check(f"with the keys, {len(control)} of {len(clues)} clues are found: the search works", len(control) == len(clues))
    stage.check("in the bytes on disk none is found", not found_on_disk(clues, *world.stores()))
    view = _view_of(world, other)
    opened = list(world.opened_view(view)) if view else []
    stage.check("an authorised opening gives the other person's words back",
                bool(found_in_text(other.clues, (t for t in opened if isinstance(t, str)))))  # fmt: skip
    ref = view.subject_ref if view else ""
    masked = world.doors["analyst"].get(f"/v1/subjects/{ref}", controller=CONTROLLER)
    shown = world.doors["analyst"].get(f"/v1/subjects/{ref}", controller=CONTROLLER, reveal="true")
    texts = json.dumps(masked, ensure_ascii=False), json.dumps(shown, ensure_ascii=False)
    found = [len(found_in_text(other.clues, [text])) for text in texts]
    asked = ("without reveal", "with reveal (audited)")
    stage.table([{"analyst asks": how, "clues shown": n} for how, n in zip(asked, found, strict=True)])
    stage.check("the analyst sees personal fields only with a reveal", found[0] == 0 and found[1] > 0)


def _view_of(world: World, person: Person) -> ProtectedConversation | None:
    """A view that holds content of this person's conversation, as its customer."""
    refs = {row["subject_ref"] for row in world.refs(person.identifiers)}
    return next((view for (ref, _), view in world.views().items() if ref in refs and view.lines), None)


def _afternoon(now: datetime) -> datetime:
    """The last one o'clock or two o'clock of New York: the demonstration runs at any hour, and people are called by day."""
    today = now.replace(hour=18, minute=0, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


def _decide(world: World, person: Person, use: str, purpose: str) -> tuple[str, list[str]]:
    answer = world.doors["decider"].post("/v1/decisions", {
        "use": use, "controller": CONTROLLER, "identifiers": person.identifiers, "channel": "voice", "purpose": purpose,
        "at": _afternoon(world.clock.now()).isoformat(),
    })  # fmt: skip
    return answer["verdict"], list(answer["reasons"])


def _tell(world: World, type_: str, person: Person) -> None:
    world.doors["publisher"].take(cloud_event(type_, world.clock.now(), {
        "identifiers": person.identifiers, "purposes": ["marketing", "recording"], "channels": ["voice"], "method": "verbal",
        "evidence": {"conversation_id": person.conversations[0]},
    }))  # fmt: skip


def _both(world: World, person: Person) -> list[dict[str, Any]]:
    rows = []
    for use, purpose in (("dial", "marketing"), ("record", "recording")):
        verdict, reasons = _decide(world, person, use, purpose)
        rows.append({"use": use, "purpose": purpose, "verdict": verdict, "reasons": reasons})
    return rows


def _consent(stage: Stage, world: World, person: Person) -> None:
    stage.step("Consent is given: calls may be made and recorded")
    before = _both(world, person)
    stage.check("without a consent both are denied, with a reason", all(r["verdict"] == "deny" and r["reasons"] for r in before))
    _tell(world, "consent.given", person)
    stage.soon(f"after the consent of {person.label} both are allowed",
               lambda: all(row["verdict"] == "allow" for row in _both(world, person)))  # fmt: skip
    stage.table(_both(world, person))


def _withdrawal(stage: Stage, world: World, person: Person) -> None:
    stage.step("Consent is withdrawn: the very next decision says no")
    _tell(world, "consent.withdrawn", person)
    rows = _both(world, person)
    stage.table(rows)
    denied = all(row["verdict"] == "deny" and row["reasons"] for row in rows)
    stage.check("the first decisions after the 202 are denied, with reasons", denied)
    world.wait_until_folded()
    stage.soon("once folded, the reason is the withdrawal",
               lambda: all("consent_withdrawn" in row["reasons"] for row in _both(world, person)))  # fmt: skip


def _tombstones(world: World, topic: str, refs: set[str]) -> tuple[int, int]:
    """(tombstones, living rows) of a topic under any of the refs."""
    mine = [value for key, value in world.latest(topic).items() if key[0] in refs]
    return sum(value is None for value in mine), sum(value is not None for value in mine)


def _erasure(stage: Stage, world: World, inbox: Path, person: Person, other: Person) -> None:
    stage.step("A person asks to be forgotten")
    refs = {row["subject_ref"] for row in world.refs(person.identifiers)}
    copies = [view for (ref, _), view in world.views().items() if ref in refs]  # as a warehouse that lags has them
    analyst = world.doors["analyst"]
    request_id = analyst.post("/v1/requests", {
        "controller": CONTROLLER, "right": "erasure", "regime": "gdpr", "identifiers": person.identifiers,
        "received_via": "phone",
    })["request_id"]  # fmt: skip
    until(lambda: analyst.get(f"/v1/requests/{request_id}")["state"] == "identity_pending")
    stage.check("nothing is destroyed before the identity is verified", _tombstones(world, VIEWS, refs)[0] == 0)
    analyst.post(f"/v1/requests/{request_id}/verify", {})
    stage.soon("the request is fulfilled", lambda: analyst.get(f"/v1/requests/{request_id}")["state"] == "fulfilled")
    rows = {topic: _tombstones(world, topic, refs) for topic in (VIEWS, KEYS, "consent.state")}
    stage.table([{"topic": topic, "tombstones": gone, "rows left": left} for topic, (gone, left) in rows.items()])
    stage.check("every row of this person is a tombstone, and every data key is destroyed",
                all(left == 0 and gone > 0 for gone, left in rows.values()))  # fmt: skip
    opened = [text for copy in copies for text in world.opened_view(copy)]
    stage.check(f"an old copy of the sealed rows opens to {len(opened)} erased markers and no word",
                bool(opened) and all(isinstance(text, Erased) for text in opened))  # fmt: skip
    for event in (events := _events_in(world, inbox, "/again")):
        event["source"] = "demo/second-import"
    _publish_all(world, events)
    Publisher(world.doors["publisher"], CONTROLLER).publish(inbox)
    world.wait_until_folded()
    stage.check("the same conversations published again, with old and with new ids, bring nothing back",
                all(_tombstones(world, topic, refs)[1] == 0 for topic in (VIEWS, KEYS))
                and not world.conversations(person.identifiers))  # fmt: skip
    stage.say("The raw retention of one day passes, and the service's maintenance (every minute) runs.")
    world.later(25 * HOUR_MS)
    world.wait_until_folded()
    world.doors["administrator"].post("/v1/admin/retention/raw")
    world.service.maintain()
    left = found_in_text(person.clues, world.openings())
    stage.check(f"opened with every key that lives, none of the {len(person.clues)} clues is left", not left)
    stage.check("nor in the bytes on disk", not found_on_disk(person.clues, *world.stores()))
    view = _view_of(world, other)
    texts = [] if view is None else [text for text in world.opened_view(view) if isinstance(text, str)]
    said = [clue for clue in other.clues if len(clue) >= LINE_CHARS_MIN]
    stage.check(f"the copy of {other.label} still opens to their own words", bool(found_in_text(said, texts)))


def _publish_all(world: World, events: list[dict[str, Any]]) -> None:
    for start in range(0, len(events), 200):
        part = msgspec.json.encode(events[start : start + 200])
        world.doors["publisher"].answer(world.doors["publisher"].send(
            "POST", "/v1/events", content=part, headers={"content-type": "application/cloudevents-batch+json"},
        ))  # fmt: skip
