"""Signs what is committed: a checkpoint of each audit tree, made at the edge from the frontier in the store."""

from collections.abc import Iterable, Iterator, Mapping

from engine.context import TaskPlan
from engine.layout import FRONTIER
from engine.merkle import Frontier
from engine.notes import Checkpoint, Signer
from engine.runtime import LogRecord, Output, Runtime
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

    def records() -> Iterator[LogRecord]:
        offset = 0
        while found := runtime.read(TOPIC, 0, offset, READ_MAX):
            yield from found
            offset = found[-1].offset + 1

    return newest(records())


def newest(records: Iterable[LogRecord]) -> dict[str, str]:
    """The newest note of each origin among records in log order."""
    return {r.key.decode(): decode_as(AuditCheckpoint, r.value).note for r in records if r.value is not None}


def sign_checkpoints(runtime: Runtime, tasks: Iterable[TaskPlan], deployment: str, signer: Signer, now_ms: int) -> list[str]:
    """Sign and append a checkpoint for each tree that grew since its last; returns the newest note of each origin."""
    known = latest_notes(runtime)
    for origin, note in new_notes(frontiers(runtime, tasks, deployment), known, signer):
        known[origin] = note
        runtime.append([Output(TOPIC, origin.encode(), record_of(note))], now_ms)
    return [known[origin] for origin in sorted(known)]


def new_notes(grown: Mapping[str, Frontier], known: Mapping[str, str], signer: Signer) -> Iterator[tuple[str, str]]:
    """Sign a note of each origin whose frontier the known one does not speak of."""
    for origin, frontier in grown.items():
        text = Checkpoint(origin, frontier.size, frontier.root()).format()
        if not known.get(origin, "").startswith(text):
            yield origin, signer.sign(text)


def record_of(note: str) -> bytes:
    """The value of a note's record on the log."""
    return encode(AuditCheckpoint(note=note))
