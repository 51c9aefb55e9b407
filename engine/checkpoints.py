"""Signs what is committed: a checkpoint of each audit tree, made at the edge from the frontier in the store."""

from collections.abc import Iterable

from engine.context import TaskPlan
from engine.layout import FRONTIER
from engine.merkle import Frontier
from engine.notes import Checkpoint, Signer
from engine.runtime import Output, Runtime
from schemas.codec import decode_as, encode
from schemas.topics import AuditCheckpoint

TOPIC = "audit.checkpoints"
READ_MAX = 1_000


def origin_of(deployment: str, task: str, partition: int) -> str:
    """The name of a task partition's audit tree."""
    return f"consentinel/{deployment}/{task}/{partition}"


def frontiers(runtime: Runtime, tasks: Iterable[TaskPlan], deployment: str) -> dict[str, Frontier]:
    """The committed frontier of every audit tree that has an entry, by origin."""
    found: dict[str, Frontier] = {}
    for task in tasks:
        for partition in runtime.owned(task.name):
            data = runtime.get(task.name, partition, FRONTIER)
            if data is not None:
                found[origin_of(deployment, task.name, partition)] = Frontier.from_bytes(data)
    return found


def latest_notes(runtime: Runtime) -> dict[str, str]:
    """The newest checkpoint of each origin on the log."""
    notes: dict[str, str] = {}
    offset = 0
    while records := runtime.read(TOPIC, 0, offset, READ_MAX):
        for record in records:
            if record.value is not None:
                notes[record.key.decode()] = decode_as(AuditCheckpoint, record.value).note
        offset = records[-1].offset + 1
    return notes


def sign_checkpoints(runtime: Runtime, tasks: Iterable[TaskPlan], deployment: str, signer: Signer, now_ms: int) -> list[str]:
    """Sign and append a checkpoint for each tree that grew since its last; returns the newest note of each origin."""
    known = latest_notes(runtime)
    for origin, frontier in frontiers(runtime, tasks, deployment).items():
        text = Checkpoint(origin, frontier.size, frontier.root()).format()
        if not known.get(origin, "").startswith(text):
            known[origin] = signer.sign(text)
            runtime.append([Output(TOPIC, origin.encode(), encode(AuditCheckpoint(note=known[origin])))], now_ms)
    return [known[origin] for origin in sorted(known)]
