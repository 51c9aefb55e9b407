"""The real way of a consent on the cluster: what a gateway has appended is admitted, folded, audited and handed on.

`consents` → intake → `subject.events` → subject → `consent.state`, `audit.entries`, changelogs; all three tasks in one process,
two transactions an event. Without sealing, records under an hour's key rest in plain text (`benchmarks/unsealed.py`).
"""

import argparse
import os
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec

from benchmarks.cluster import clients_of, committed, make_all
from benchmarks.meter import Meter, sampled
from benchmarks.unsealed import UnsealedSecrets
from engine.clock import system_clock
from engine.context import Shared
from engine.filering import FileRing
from engine.kafka.clients import ConfluentClients
from engine.kafka.edge import Edge
from engine.kafka.names import Names
from engine.kafka.runtime import KafkaRuntime
from engine.loop import CONTROLLERS, TaskLoop, plans
from engine.overlay import decode_state
from engine.runtime import Output
from engine.secrets import Secrets
from engine.service import tune_interpreter
from engine.topology import Topology, default_topology
from processors.permissions import Permissions
from processors.registry import processors
from schemas.codec import decode_as, encode
from schemas.routed import Envelope
from schemas.topics import AuditEntry, ConsentState

SUBJECTS: Final = 20_000
CONTROLLER: Final = "acme"
RECORDS_MAX: Final = 4_000  # of one task in one turn: some 100 ms of work
APPEND_MAX: Final = 10_000
KINDS: Final = ("consent.given",) * 7 + ("consent.refused", "consent.withdrawn", "consent.renewed")
IDLE_SECS: Final = 0.002
STALL_SECS_MAX: Final = 60.0


def envelopes(events: int, secrets: Secrets, now_ms: int) -> Iterator[Envelope]:
    """What a gateway makes of `events` consents: checked, and each identifier as its ref."""
    rnd = random.Random(7)
    refs: dict[str, str] = {}
    for n in range(events):
        who = f"customer-{rnd.randrange(SUBJECTS)}"
        if who not in refs:
            refs[who] = secrets.ref(CONTROLLER, "crm", who)
        data = msgspec.json.encode({
            "identifiers": [{"kind": "crm", "value": who}], "purposes": ["marketing"], "channels": ["voice"], "method": "web",
            "evidence": {"notice_version": "2026-01", "language": "en"},
        })  # fmt: skip
        yield Envelope(
            id=f"e{n}", source="bench", type=rnd.choice(KINDS), controller=CONTROLLER, time_ms=now_ms - events + n,
            receipt_ms=now_ms, actor="bench", content_type="application/json", data=data, refs=(refs[who],),
        )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Append, then fold everything: from the turn that has the first records to the one that folds the last."""
    topology = default_topology()
    names = Names(args.prefix, topology.task_specs())
    make_all(args.bootstrap, names, topology.topic_specs(), topology.task_specs())
    args.folder.mkdir(parents=True, exist_ok=True)
    ring = FileRing(args.folder / "ring", create=True)
    secrets = (UnsealedSecrets if args.unsealed else Secrets)(ring, os.urandom)
    clients = clients_of(args.bootstrap, names, args.worker)
    _publish(clients, names, topology, secrets, args.events)

    runtime = KafkaRuntime(
        clients, names, topology.topic_specs(), topology.task_specs(), folder=args.folder / "stores", worker=args.worker,
        clock=system_clock, tables=[CONTROLLERS],
    )  # fmt: skip
    shared = Shared(secrets, topology)
    loop = TaskLoop(runtime, plans(topology, processors()), shared, system_clock, records_max=RECORDS_MAX)
    tune_interpreter()
    meter = Meter()
    deadline = monotonic() + STALL_SECS_MAX
    with sampled(bool(args.profile)) as sampler:
        while shared.counts.get(("folded", "subject"), 0) < args.events:
            if not loop.turns and runtime.owned("intake"):
                meter = Meter()
                if sampler is not None:
                    sampler.clear()
            if loop.turn():
                deadline = monotonic() + STALL_SECS_MAX
            else:
                assert monotonic() < deadline, "the consents stopped coming"
                sleep(IDLE_SECS)
        found = meter.stop(args.events)
    found["turns"] = loop.turns
    if sampler is not None:
        Path(args.profile).write_text(sampler.report(found["cpu_us"]))
    runtime.close()
    _verify(args.bootstrap, names, topology, secrets, args.events)
    ring.close()
    return found


def _publish(clients: ConfluentClients, names: Names, topology: Topology, secrets: Secrets, events: int) -> None:
    """As a door does it, in batches."""
    edge = Edge(clients, names, {t.name: t.partitions for t in topology.topics.values()})
    now_ms = system_clock()
    batch: list[Output] = []
    for n, envelope in enumerate(envelopes(events, secrets, now_ms), 1):
        value = secrets.seal_raw("consents", encode(envelope), now_ms)
        batch.append(Output("consents", envelope.id.encode(), value))
        if len(batch) == APPEND_MAX or n == events:
            edge.append(batch, now_ms)
            batch = []
    edge.close()


def _verify(bootstrap: str, names: Names, topology: Topology, secrets: Secrets, events: int) -> None:
    """Every event was folded once: each dossier knows just its own, each row says what its last one did, each tree is whole."""
    truth: dict[str, tuple[str, set[str]]] = {}
    for envelope in envelopes(events, secrets, 0):
        _, known = truth.get(envelope.refs[0], ("", set()))
        truth[envelope.refs[0]] = envelope.type.removeprefix("consent."), known | {_event_id(envelope)}
    dossiers: dict[str, tuple[int, set[str]]] = {}
    for message in committed(bootstrap, names.changelog("subject"), topology.tasks["subject"].partitions):
        owner, _, kind = message.key().removeprefix(b"s").partition(b"\0")
        if kind == Permissions.KIND.encode() + b"\0":
            kept = decode_state(Permissions, message.value())
            dossiers[owner.decode()] = kept.epoch, set(kept.seen)
    assert dossiers == {ref: (len(ids), ids) for ref, (_, ids) in truth.items()}, "a dossier is not what was published"
    rows: dict[str, str] = {}
    for message in committed(bootstrap, names.topic("consent.state"), topology.topics["consent.state"].partitions):
        row = decode_as(ConsentState, message.value())
        rows[row.subject_ref] = row.status
    assert rows == {ref: status for ref, (status, _) in truth.items()}, "a row is not what was published"
    sizes: dict[str, int] = {}
    told: set[str] = set()
    for message in committed(bootstrap, names.topic("audit.entries"), topology.topics["audit.entries"].partitions):
        entry = decode_as(AuditEntry, message.value())
        assert entry.index == sizes.get(entry.origin, 0) and entry.event not in told, "an audit tree has a gap or a double"
        sizes[entry.origin] = entry.index + 1
        told.add(entry.event)


def _event_id(envelope: Envelope) -> str:
    return sha256(f"{envelope.source}\0{envelope.id}".encode()).hexdigest()[:24]
