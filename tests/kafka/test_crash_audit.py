"""Faults under load, at random moments: no event is lost, none counts twice. `python -m tests.kafka.crash` is the long form."""

from pathlib import Path
from random import Random

import pytest

from tests.kafka.crash.crew import seed_of
from tests.kafka.crash.faults import Audit
from tests.parts.kafka import Broker
from tests.parts.topics import new_prefix

pytestmark = pytest.mark.slow

KINDS = ("kill", "die", "zombie", "term", "join", "broker-kill")
EVENTS = 20_000
RATE = 400  # events a second


def test_no_fault_loses_or_doubles_anything(kafka_jars: None, tmp_path: Path) -> None:
    seed = seed_of(None)
    print(f"CONSENTINEL_SEED={seed}")  # shown with a failure: the same faults hit the same workers again
    rng = Random(seed)
    with Broker() as broker:
        outcome = Audit(broker, tmp_path, new_prefix(), rng, RATE).run(rng.sample(KINDS, len(KINDS)), EVENTS)
    print(outcome.table())
    assert not outcome.deaths
    assert outcome.findings.ok, outcome.findings
    assert outcome.findings.events >= EVENTS
