"""The race: a call in progress while its customer is erased, on a cluster, with a partition of intake that lags by a minute."""

import time

import msgspec
import pytest
from confluent_kafka import Producer

from engine.runtime import partition_of
from tests.endtoend.world import Told, latest, request, request_states
from tests.harness import call, party

from .test_worker import TOPOLOGY, until
from .whole_site import Stir, Whole, now_ms, outside

pytestmark = pytest.mark.slow

ANN, BEN, GUS = "+12025550101", "+12025550177", "gus@example.net"
LAG_SECS = 60.0
RACE = "the race: "  # begins every word of the calls in progress


class Hung:
    """A publisher that hangs in the midst of a transaction: what stands behind it on its partitions is read by nobody."""

    def __init__(self, site: Whole, *conversations: str) -> None:
        self._producer = Producer({
            "bootstrap.servers": site.bootstrap, "transactional.id": f"{site.prefix}hung", "transaction.timeout.ms": 300_000,
        })  # fmt: skip
        self._producer.init_transactions(30)
        self._producer.begin_transaction()
        for name in conversations:
            where = partition_of(name.encode(), TOPOLOGY.topics["calls"].partitions)
            self._producer.produce(site.names.topic("calls"), b"never said", partition=where)
        assert self._producer.flush(30) == 0

    def end(self) -> None:
        """Give up: the partitions can be read on."""
        self._producer.abort_transaction(30)
        del self._producer  # it would go on asking for its broker when that is gone


def begun(name: str, at: int) -> list[Told]:
    """A call of Ann, Ben and an agent."""
    ann, ben = party("a", "customer", ("tel", ANN), name="Annabella Example"), party("b", "customer", ("tel", BEN))
    return [Told("call.started", f"{name}/s", at, call(name, ann, ben, party("g", "agent", ("email", GUS))))]


def spoken(name: str, part: str, at: int) -> list[Told]:
    """What all three say in one part of the call, a note and a tag; each of these words is looked for afterwards."""
    about = {"conversation_id": name}
    segments = [{"party_id": who, "text": f"{RACE}{part} of {name}, by {who}"} for who in "abg"]
    return [
        Told("call.transcribed", f"{name}/{part}/t", at, about | {"segments": segments}),
        Told("call.annotated", f"{name}/{part}/n", at, about | {"author": "g", "note": f"{RACE}note, {part} of {name}"}),
        Told("call.tagged", f"{name}/{part}/g", at, about | {"tag": part, "comment": f"{RACE}tag, {part} of {name}"}),
    ]


def test_nothing_of_a_call_in_progress_opens_after_its_customers_erasure_though_intake_lags_by_a_minute(whole: Whole) -> None:
    whole.apply()
    whole.worker("w1").wait_ready()
    whole.gateway()
    name, late, request_id = "c1", "c2", "r1"
    whole.send([*begun(name, now_ms()), *spoken(name, "first", now_ms())])
    until(lambda: f"{RACE}first of {name}, by b" in {str(line[3]) for view in whole.views().values() for line in view["lines"]})

    hung = Hung(whole, name, late)
    began = time.monotonic()
    whole.send([*spoken(name, "before", now_ms()), *begun(late, now_ms()), *spoken(late, "before", now_ms())])
    time.sleep(1.0)
    whole.send(request(request_id, now_ms(), ("tel", ANN)))
    until(lambda: request_states(whole) == {request_id: "fulfilled"})
    print(f"{time.monotonic() - began:4.1f} s: erased, while the rest of the call waits")
    again = party("a2", "customer", ("tel", ANN), name="Annabella Example")
    for one in (name, late):
        recording = {"conversation_id": one, "recording_id": f"rec-{one}", "confirmed": True}
        whole.send([
            *spoken(one, "after", now_ms()), Told("call.recording_started", f"{one}/r", now_ms(), recording),
            Told("call.party_joined", f"{one}/j", now_ms(), {"conversation_id": one, "party": again}),
            Told("call.transcribed", f"{one}/x", now_ms(), {
                "conversation_id": one, "segments": [{"party_id": "a2", "text": f"{RACE}again of {one}"}]}),
            Told("call.ended", f"{one}/e", now_ms(), {"conversation_id": one}),
        ])  # fmt: skip
    time.sleep(max(0.0, LAG_SECS - (time.monotonic() - began)))
    rests = {"before", "after", "again"}
    assert not any(part in str(line[3]) for view in whole.views().values() for line in view["lines"] for part in rests)
    hung.end()
    bens = whole.secrets.ref("acme", "tel", BEN)
    mine = {name: ["first", "before", "after"], late: ["before", "after"]}
    wanted = {one: sorted(f"{RACE}{part} of {one}, by b" for part in parts) for one, parts in mine.items()}

    def heard() -> dict[str, list[str]]:
        found = whole.views()
        return {one: sorted(str(line[3]) for line in found[bens, one]["lines"]) for one in mine if (bens, one) in found}

    until(lambda: heard() == wanted and whole.folded())
    ann = whole.secrets.ref("acme", "tel", ANN)
    views = whole.views()
    assert not [at for at in views if at[0] == ann]
    assert not [key for key in latest(whole, "keys.wrapped") if msgspec.json.decode(key)[0] == ann], "a key behind the fence"
    assert heard() == wanted, "and Ben's own words open"

    whole.physically(Stir(whole))
    whole.rest()
    whole.compact()
    whole.hours_later()
    words = [f"{RACE}{part} of {one}, by {who}" for one in mine for part in ("before", "after") for who in "ag"]
    words += [f"{RACE}{what}, {part} of {one}" for one in mine for part in ("before", "after") for what in ("note", "tag")]
    words += [f"{RACE}first of {name}, by a", *(f"{RACE}again of {one}" for one in mine)]
    report = whole.scan("--identifier", f"tel:{ANN}", "--controller", "acme", words=words)
    assert (report["verdict"], outside(report), report["not_read"]) == ("clean", [], [])
