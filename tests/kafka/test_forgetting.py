"""Forgetting on a cluster: real conversations in, people erased, and no log, store or read model gives any of them back."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from connectors.http.cloudevents import millis
from connectors.vcon import map_vcon
from engine.receipts import check_receipt
from tests.endtoend.corpus import Person, corpus, given, made
from tests.endtoend.test_forgetting import chosen
from tests.endtoend.world import Told, codes, latest, request_states

from .test_worker import until
from .whole_site import WAIT_SECS_MAX, Stir, Whole, now_ms, outside

pytestmark = pytest.mark.slow

# A tenth of the people are erased. All 300 conversations take some four minutes: two thirds of that are the two scans.
CONVERSATIONS = int(os.environ.get("CONSENTINEL_TEST_CALLS", "100"))
RECORDED_KEPT = 5  # recordings of people who stay
SETTLE_SECS = 20.0  # the redaction of the shared call follows the erasure
ANN, BEN, GUS = "+12025550101", "+12025550177", "gus@example.net"
BOTH = "7d9e4c39-2f0a-4a53-9d3a-0c8b6f0f7a11"


def of_two() -> dict[str, Any]:
    """One call with two customers; the agent repeats what the first one says."""
    talk = [
        (1, "This is Annabella Example and my budgerigar has flown into the lamp."),
        (0, "I am sorry to hear that, Annabella Example, a budgerigar in the lamp."),
        (2, "And this is Benedict Example, I have paid for the lamp in March."),
    ]
    started = "2026-02-03T09:00:00+00:00"
    return {
        "uuid": BOTH, "vcon": "0.0.1", "created_at": started,
        "parties": [
            {"mailto": GUS, "name": "Gus Example", "role": "agent"},
            {"tel": ANN, "name": "Annabella Example", "role": "contact"},
            {"tel": BEN, "name": "Benedict Example", "role": "contact"},
        ],
        "dialog": [
            {"type": "text", "start": started, "parties": [who], "originator": who, "mimetype": "text/plain", "body": text}
            for who, text in talk
        ], "analysis": [], "attachments": [],
    }  # fmt: skip


def record(document: dict[str, Any], site: Whole) -> str:
    """Give a conversation a recording, in a file that names nobody but holds the customer's name; returns the file's name."""
    name = f"spoken-{document['uuid']}.wav"
    said = next(p.get("name") or "nobody" for p in document["parties"] if p.get("role") != "agent")
    (site.recordings / name).write_bytes(b"RIFF" + bytes(40) + said.encode())
    spoken = [dialog for dialog in document["dialog"] if dialog["type"] == "text"]
    document["dialog"] = [*spoken, {
        "type": "recording", "start": spoken[0]["start"], "parties": [0, 1], "mimetype": "audio/x-wav", "duration": 60,
        "url": f"file://{site.recordings}/{name}",
    }]  # fmt: skip
    return name


def asked_by(n: int, who: Person) -> tuple[str, str]:
    return ("tel", who.tel) if n % 2 else ("email", who.email)


def consents(people: list[Person]) -> Iterator[Told]:
    for n, who in enumerate(people):
        kind, value = asked_by(n, who)
        proof = {"agent": f"witness number {n:03d}", "uri": f"https://proof.example.com/consent/{n:03d}"}
        data = {"identifiers": [{"kind": kind, "value": value}], "purposes": ["marketing"], "method": "web", "evidence": proof}
        yield Told("consent.given", f"consent/{n}", now_ms() - 60_000, data)


def lines_of(document: dict[str, Any]) -> int:
    """How many lines a customer's view shows of a conversation: what was said, noted and tagged."""
    count = 0
    for event in map_vcon(msgspec.json.encode(document)):
        data = msgspec.json.decode(event.data)
        count += len(data.get("segments", ())) + (event.type in ("call.annotated", "call.tagged"))
    return count


def recordings_of(document: dict[str, Any]) -> int:
    return sum(dialog["type"] == "recording" for dialog in document["dialog"])


def shown(site: Whole) -> dict[tuple[str, str], int]:
    """How many lines, and how many recordings with it, each customer's view shows."""
    return {
        at: len(view["lines"]) + len(view["recordings"]) for at, view in site.views().items()
        if view["role"] == "customer" and not at[1].startswith("other-")
    }  # fmt: skip


def test_people_who_are_erased_on_a_cluster_are_nowhere_and_stay_away(whole: Whole) -> None:
    clock = time.perf_counter()

    def took(step: str) -> None:
        print(f"{time.perf_counter() - clock:6.1f} s {step}", flush=True)

    told = corpus((given() or made())[:CONVERSATIONS])
    people, needles = chosen(told, len(told.documents) // 10)
    flat = sorted({needle for few in needles for needle in few})
    gone = {told.documents[n]["uuid"] for who in people for n in who.calls}
    files = [record(told.documents[n], whole) for who in people for n in who.calls]
    kept_files = [record(d, whole) for d in [d for d in told.documents if d["uuid"] not in gone][:RECORDED_KEPT]]
    flat += files
    flat += [text for n in range(len(people)) for text in (f"witness number {n:03d}", f"https://proof.example.com/consent/{n:03d}")]
    flat += [ANN, "Annabella Example", "a budgerigar in the lamp", "my budgerigar has flown"]
    print(f"{len(told.documents)} conversations, {len(people)} people, {len(flat)} needles")

    whole.apply()
    whole.worker("w1").wait_ready()
    whole.gateway()
    for document in (*told.documents, of_two()):
        whole.vcon(document)
    whole.send(consents(people))
    everything = sorted([lines_of(d) + recordings_of(d) for d in told.documents] + [3, 3])
    until(lambda: sorted(shown(whole).values()) == everything, WAIT_SECS_MAX)
    until(lambda: len(latest(whole, "consent.state")) == len(people))
    assert codes(whole) == [], "nothing that was accepted was quarantined"
    before = whole.views()
    took("published and folded")

    asks = [part for n, who in enumerate(people) for part in ("--identifier", ":".join(asked_by(n, who)))]
    asks += ["--controller", "acme", "--control", str(whole.folder / "control.json")]
    whole.rest()
    control = whole.scan(*asks, "--expect-all", words=flat)
    assert control["verdict"] == "all_found", [row for row in control["needles"] if not row["where"]]
    sources = {where["source"] for row in control["needles"] for where in row["where"]}
    assert sources == {"data", "kafka_log", "redis_dump", "path"}, "each kind of place held some of it"
    took(f"control: {control['looked_at']}")

    worker = whole.worker("w1")
    worker.wait_ready()
    whole.gateway()
    asked = [whole.ask(asked_by(n, who)) for n, who in enumerate(people)] + [whole.ask(("tel", ANN))]
    until(lambda: request_states(whole) == dict.fromkeys(asked, "fulfilled"), WAIT_SECS_MAX)
    took("erased")
    assert sorted(p.name for p in whole.recordings.iterdir()) == sorted(kept_files), "their recordings, and no others"
    only_they_are_gone(whole, before, gone)

    def receipt(request_id: str) -> bytes:
        return bytes(whole.http.get(f"/v1/receipts/{request_id}").raise_for_status().content)

    pool = ThreadPoolExecutor(2)  # as many as a gateway makes at once; each waits for the read model for some seconds
    receipts = [pool.submit(receipt, request_id) for request_id in asked]
    for document in (*told.documents, of_two()):
        whole.vcon(document)
    whole.send(consents(people))
    whole.send(again for n in sorted({n for who in people for n in who.calls}) for again in anew(told.documents[n]))
    until(whole.folded)
    took("published again")

    whole.physically(Stir(whole))
    took("cleaned")
    only_they_are_gone(whole, before, gone)
    for made_ in receipts:
        checked = check_receipt(made_.result(), whole.vkey)
        assert checked.summary.complete and checked.summary.identifiers_erased == 1
    pool.shutdown()
    (whole.folder / "receipt").write_bytes(receipts[0].result())
    verified = whole.run("audit", "verify", str(whole.folder / "receipt"), "--key", whole.vkey)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    took("receipts verified")
    whole.rest()
    whole.compact()
    whole.hours_later()
    after = whole.scan(*asks, words=flat)
    took(f"scanned: {after['looked_at']}")
    assert (after["verdict"], outside(after), after["not_read"]) == ("clean", [], [])


def anew(document: dict[str, Any]) -> Iterator[Told]:
    """The same conversation as somebody else would publish it: under other ids of its events."""
    for n, event in enumerate(map_vcon(msgspec.json.encode(document))):
        yield Told(event.type, f"anew/{document['uuid']}/{n}", millis(event.time), msgspec.json.decode(event.data))


def only_they_are_gone(site: Whole, before: dict[tuple[str, str], dict[str, Any]], gone: set[str]) -> None:
    """Everybody else's view is what it was, the agents' participation included; of the shared call the other's own words stay."""
    ann, ben = (site.secrets.ref("acme", "tel", number) for number in (ANN, BEN))
    doomed = {at for at, view in before.items() if at[1] in gone and view["role"] != "agent"} | {(ann, BOTH)}
    wanted = {at: view for at, view in before.items() if at not in doomed}
    wanted[ben, BOTH] = wanted[ben, BOTH] | {"lines": [line for line in wanted[ben, BOTH]["lines"] if "Benedict" in str(line[3])]}
    assert len(wanted[ben, BOTH]["lines"]) == 1

    def others() -> list[tuple[str, ...]]:
        """Views that are not what they should be: whose role it is, and which fields differ."""
        now = {at: view for at, view in site.views().items() if not at[1].startswith("other-")}
        return [
            (at[1], str((now.get(at) or wanted[at])["role"]), "missing" if at not in now else "back" if at not in wanted else "",
             *(name for name in now.get(at, {}) if at in wanted and now[at][name] != wanted[at][name]))
            for at in now.keys() | wanted.keys() if now.get(at) != wanted.get(at)
        ]  # fmt: skip

    give_up = time.monotonic() + SETTLE_SECS
    while wrong := others():
        assert time.monotonic() < give_up, wrong
        time.sleep(0.5)
    refs = {ref for ref, _ in doomed}
    assert not [key for key in latest(site, "consent.state") if msgspec.json.decode(key)[0] in refs]
