"""Whether the job's answers are right: a benchmark that gives wrong results is no benchmark."""

from typing import Any

from benchmarks import job
from benchmarks.cluster import committed
from benchmarks.floor import common as floor
from engine.kafka.names import RESERVED, Names


class Wrong(AssertionError):
    """What the job left on the log is not what its input asks for."""


def verify_job(bootstrap: str, names: Names, events: int) -> None:
    """Fold the input once more, naively, and compare what was committed: each decision, each subject's state. Raises `Wrong`."""
    states: dict[bytes, dict[str, Any]] = {}
    wanted: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for message in committed(bootstrap, names.topic(job.INPUT), job.PARTITIONS):
        event, key = floor.dec(floor.EVENT, message.value()), message.key()
        states[key], out = floor.step(event, states.get(key, floor.NEW))
        wanted[event["event_id"]] = key, out
    if len(wanted) != events:
        raise Wrong(f"the input has {len(wanted)} events")
    for message in committed(bootstrap, names.topic(job.OUTPUT), job.PARTITIONS):
        out = floor.dec(floor.OUT, message.value())
        if wanted.pop(out["event_id"], None) != (message.key(), out):
            raise Wrong("a decision is wrong, or there twice")
    if wanted:
        raise Wrong(f"{len(wanted)} decisions are missing")
    kept: dict[bytes, dict[str, Any]] = {}
    for message in committed(bootstrap, names.changelog(job.TASK), job.PARTITIONS):
        if not message.key().startswith(RESERVED):
            state = job.unpack_state(message.value())
            kept[message.key()] = {"granted": state.granted, "version": state.version, "last_ts": state.last_ts, "n": state.n}
    if kept != states:
        raise Wrong("the changelog's states are not those of the input")
