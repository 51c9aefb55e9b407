"""A worker that was promised units and cannot have them joins the group anew, instead of waiting for ever."""

import time
from pathlib import Path

import pytest

from engine.kafka import runtime as runtimes
from engine.runtime import Commit, Output, TaskSpec, TopicSpec
from tests.conformance.on_kafka import WAIT_SECS_MAX, KafkaFactory, Settled
from tests.parts.kafka import Kafka

TOPICS = [TopicSpec("asked", 2, compact=False)]
TASKS = [TaskSpec("fold", ("asked",), 2)]
JOIN_SECS = 5.0  # more than a member alone needs to be given everything


def test_units_that_cannot_be_had_are_asked_for_again(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = KafkaFactory(tmp_path / "data", kafka.bootstrap)
    runtime = factory.open(TOPICS, TASKS)
    try:
        runtime.commit(Commit([], {("fold", 1): {b"k": b"v"}}, {}, 1))
        before = runtime.membership
        with monkeypatch.context() as deaf:
            deaf.setattr(runtime.recovery, "claim", lambda units: None)
            runtime.rewind()
            runtime.tend()
        assert not runtime.ready
        told: list[bool] = []  # what other threads are told while the old member leaves
        leave = before.close
        monkeypatch.setattr(before, "close", lambda: (leave(), told.append(runtime.ready)))
        monkeypatch.setattr(runtimes, "REJOIN_MS", 500)
        deadline = time.monotonic() + WAIT_SECS_MAX
        while runtime.membership is before or not runtime.ready:
            assert time.monotonic() < deadline, "it waits for ever"
            runtime.tend()
            time.sleep(0.01)
        assert told == [False], "nothing was restored, and it said that all of it was"
        runtime.append([Output("asked", b"k", b"v", partition=1)], 1)
        assert [batch.partition for batch in runtime.poll("fold", 10)] == [1]
        assert runtime.get("fold", 1, b"k") == b"v"
    finally:
        factory.shut()


def test_a_host_that_takes_its_time_to_begin_loses_nothing(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group has spoken before the loop first asks."""
    factory = KafkaFactory(tmp_path / "data", kafka.bootstrap)
    with monkeypatch.context() as slow:
        slow.setattr(Settled, "rest", lambda _: None)
        runtime = factory.open(TOPICS, TASKS)
    try:
        before = runtime.membership
        time.sleep(JOIN_SECS)
        runtime.rest()
        assert runtime.membership is before
    finally:
        factory.shut()
