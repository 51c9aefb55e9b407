"""One person's erasure as a story any runtime can be told, and a process whose forks live it until a numbered point kills them.

    python -m tests.endtoend.erasure_child

A line of standard input is a JSON array: the data folder, the time to begin at (epoch ms) and the point to die at (0: none). A
fork opens the deployment there, turns its loop and tells what is due until nothing is left. Points are counted before and after
each commit, each append from outside and each entry in the ring's ledger; at the one asked for, the fork sends itself SIGKILL.
The answer is a line: the name of the point and its number, or `ended` and how many points there were.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.service import Limits, Service
from engine.topology import default_topology
from schemas.codec import decode_as
from schemas.topics import ErasureNotice, MediaOrder
from tests.endtoend.world import Told, envelope, topic_of
from tests.harness import START_MS, call, party

ANN, ANN_MAIL, ANN_MOBILE, BEN, GUS = "+12025550101", "ann@example.com", "+12025550102", "+12025550177", "gus@example.net"
REQUEST, TARGET = "r1", "warehouse"
AT_HOME = tuple(f"c{n}" for n in range(4))  # of Ann's number; her address points there, and the request names the address
OF_MOBILE = tuple(f"m{n}" for n in range(8))  # more than one step destroys; her address is linked to this number
POINTED = "p0"  # at Ann's number, and the mobile number points there
SHARED = ("c0", "m0")  # Ben was there as well
RECORDED = ("c1", "m1")
ITEMS = frozenset((*AT_HOME, *OF_MOBILE, POINTED))
T0 = START_MS - 86_400_000
TURN_MS, REST_MS = 1_000, 600_000
TURNS_MAX = 2_000
TOPOLOGY = default_topology()

Publish = Callable[[Told], None]
Read = Callable[[str], Iterator[Any]]  # a topic's records that have a value, as bytes


def said(name: str, who: str) -> str:
    return f"{name}: these are the words of {who}"


def uri(name: str) -> str:
    return f"https://media.example.com/{name}/as-spoken-by-ann"


def before(at: int = T0) -> Iterator[Told]:
    """What was there when the erasure was asked for, told as of `at` (epoch ms)."""
    settings = {"default_region": "US", "employee_basis": "art6_1_f", "targets": [{"name": TARGET, "deadline_days": 14}]}
    yield Told("controller.configured", "settings", at, settings)
    gus, ben = party("g", "agent", ("email", GUS)), party("b", "customer", ("tel", BEN), name="Ben Example")
    whose = dict.fromkeys(AT_HOME, (("tel", ANN), ("email", ANN_MAIL))) | dict.fromkeys(OF_MOBILE, (("tel", ANN_MOBILE),))
    whose |= {POINTED: (("tel", ANN), ("tel", ANN_MOBILE))}
    for name, identifiers in whose.items():
        ann = party("a", "customer", *identifiers, name="Ann Example")
        who = [ann, gus, *([ben] if name in SHARED else [])]
        yield Told("call.started", f"{name}/s", at, call(name, *who))
        segments = [{"party_id": p["party_id"], "text": said(name, p["party_id"])} for p in who]
        yield Told("call.transcribed", f"{name}/t", at + 1, {"conversation_id": name, "segments": segments})
        if name in RECORDED:
            recording = {"conversation_id": name, "recording_id": f"rec-{name}", "uri": uri(name), "confirmed": True}
            yield Told("call.recording_started", f"{name}/r", at + 1, recording)
        yield Told("call.ended", f"{name}/e", at + 2, {"conversation_id": name})
    address = {"kind": "email", "value": ANN_MAIL}
    mobile = {"kind": "tel", "value": ANN_MOBILE}
    yield Told("identity.linked", "link", at, {"a": address, "b": mobile, "source": "crm"})
    for n, who_ in enumerate((address, mobile)):
        consent = {"identifiers": [who_], "purposes": ["marketing"], "method": "web", "evidence": {"agent": "the witness of Ann"}}
        yield Told("consent.given", f"consent{n}", at, consent)


def needles() -> list[str]:
    """What must not open anywhere afterwards."""
    words = [said(name, who) for name in ITEMS for who in "ag"]
    return [*words, *map(uri, RECORDED), ANN, ANN_MAIL, ANN_MOBILE, "Ann Example", "the witness of Ann"]


class Outside:
    """Who asks for the erasure, and who answers what the system asks of others. When it dies it forgets what it said."""

    def __init__(self, publish: Publish, read: Read, now: Callable[[], int]) -> None:
        self.publish, self.read, self.now = publish, read, now
        self.said: set[str] = set()

    def speak(self) -> bool:
        """Tell the next that is due; False when there is nothing to tell."""
        for told in self._due():
            if told.id not in self.said:
                self.publish(told)
                self.said.add(told.id)
                return True
        return False

    def _due(self) -> Iterator[Told]:
        now_ms = self.now()
        asked = {
            "request_id": REQUEST, "right": "erasure", "regime": "gdpr", "received_via": "web",
            "identifiers": [{"kind": "email", "value": ANN_MAIL}],
        }  # fmt: skip
        yield Told("request.opened", f"{REQUEST}/opened", now_ms, asked)
        yield Told("request.identity_verified", f"{REQUEST}/verified", now_ms, {"request_id": REQUEST})
        for order_id in sorted({decode_as(ErasureNotice, value).order_id for value in self.read("erasure.notices")}):
            yield self._answer(order_id, TARGET, now_ms)
        for order_id in sorted({decode_as(MediaOrder, value).order_id for value in self.read("media.orders")}):
            yield self._answer(order_id, "media", now_ms)

    @staticmethod
    def _answer(order_id: str, target: str, now_ms: int) -> Told:
        answer = {"order_id": order_id, "target": target, "outcome": "done"}
        return Told("erasure.acknowledged", f"{target}/{order_id}", now_ms, answer)


def key_of(told: Told) -> str:
    return str(told.data.get("conversation_id") or told.data.get("request_id") or told.id)


class House:
    """The deployment in a folder, by hand: its loop is turned, and its clock moves with each turn."""

    def __init__(self, folder: Path, now_ms: int) -> None:
        self.now_ms = now_ms
        limits = Limits(raw_retention_secs=1)
        self.service = Service.open(folder, clock=lambda: self.now_ms, limits=limits, topology=TOPOLOGY)
        self.outside = Outside(self.publish, self.read, lambda: self.now_ms)

    def publish(self, told: Told) -> None:
        self.service.publish([(topic_of(told.type), key_of(told), envelope(told, self.now_ms))])

    def read(self, topic: str) -> Iterator[bytes]:
        return (record.value for _, record in self.service.topic(topic) if record.value is not None)

    def turn(self) -> int:
        self.now_ms += TURN_MS
        return self.service.turn()

    def settle(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.turn():
                return
        raise AssertionError("it never ends")

    def live(self) -> None:
        """Go on from wherever it is until all has been told, folded and rung."""
        self.settle()
        while self.outside.speak():
            self.settle()
        self.now_ms += REST_MS
        self.settle()


class Points:
    """Counts what becomes durable, before and after, and dies at the point asked for."""

    def __init__(self, service: Service, die_at: int, told: int) -> None:
        self.passed, self.die_at, self.told = 0, die_at, told
        for owner, name in ((service.runtime, "commit"), (service.runtime, "append"), (service.ring, "ledger_append")):
            setattr(owner, name, self._between(name, getattr(owner, name)))

    def _between(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def done(*args: Any, **more: Any) -> Any:
            self._pass(f"before {name}")
            found = do(*args, **more)
            self._pass(f"after {name}")
            return found

        return done

    def _pass(self, name: str) -> None:
        self.passed += 1
        if self.passed == self.die_at:
            os.write(self.told, msgspec.json.encode((name, self.passed)))
            os.kill(os.getpid(), signal.SIGKILL)


def _life(folder: Path, now_ms: int, die_at: int, told: int) -> None:
    house = House(folder, now_ms)
    points = Points(house.service, die_at, told)
    house.live()
    house.service.stop()
    os.write(told, msgspec.json.encode(("ended", points.passed)))


def main() -> None:
    for line in sys.stdin.buffer:
        folder, now_ms, die_at = msgspec.json.decode(line, type=tuple[str, int, int])
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(heard)
                _life(Path(folder), now_ms, die_at, told)
                code = 0
            finally:
                os._exit(code)
        os.close(told)
        with os.fdopen(heard, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        name, point = msgspec.json.decode(answer) if answer else ("failed", 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed != (die_at > 0 and name != "ended"):
            name = "failed"
        sys.stdout.buffer.write(msgspec.json.encode((name, point)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
