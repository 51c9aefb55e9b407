"""Beats: a unit is complete up to a time only when everything that was received by then has been folded."""

import pytest

from engine.kafka.beats import Beats, beat_value
from engine.kafka.names import BEAT_KEY, Names, Unit
from engine.runtime import TaskSpec

TASKS = [TaskSpec("intake", ("calls", "consents"), 2), TaskSpec("subject", ("events",), 1, ("intake",))]
INTAKE, SUBJECT = Unit("intake", 0), Unit("subject", 0)
CALLS, CONSENTS = ("p.calls", 0), ("p.consents", 0)


@pytest.fixture
def beats():
    return Beats(Names("p.", TASKS), TASKS)


def hear(beats, origin, ms):
    beats.heard(SUBJECT, BEAT_KEY + origin.encode(), beat_value(ms))


def test_a_unit_of_publishers_topics_is_complete_once_it_is_past_the_ends_of_all_of_them(beats):
    assert sorted(beats.places([INTAKE, SUBJECT])) == [CALLS, CONSENTS]
    beats.ends(1_000, {CALLS: 5, CONSENTS: 9}, [INTAKE])
    beats.advance(INTAKE, {CALLS: 5, CONSENTS: 8})
    assert INTAKE not in beats.low_ms
    beats.advance(INTAKE, {CALLS: 5, CONSENTS: 9})
    assert beats.low_ms[INTAKE] == 1_000


def test_ends_that_are_asked_for_again_and_again_under_load_are_reached_all_the_same(beats):
    for second in range(1, 10):
        beats.ends(second * 1_000, {CALLS: second * 100, CONSENTS: 0}, [INTAKE])
        beats.advance(INTAKE, {CALLS: 100, CONSENTS: 0})
    assert beats.low_ms[INTAKE] == 1_000
    beats.advance(INTAKE, {CALLS: 900, CONSENTS: 0})
    assert beats.low_ms[INTAKE] == 9_000


def test_a_unit_that_reads_tasks_is_as_old_as_the_oldest_of_those_it_awaits(beats):
    hear(beats, "intake/0", 5_000)
    beats.advance(SUBJECT, {})
    assert SUBJECT not in beats.low_ms, "one of two has not been heard of"
    hear(beats, "intake/1", 3_000)
    beats.advance(SUBJECT, {})
    assert beats.low_ms[SUBJECT] == 3_000
    hear(beats, "intake/0", 9_000)
    beats.advance(SUBJECT, {})
    assert beats.low_ms[SUBJECT] == 3_000
    hear(beats, "intake/1", 2_000)  # a zombie's, late
    hear(beats, "intake/7", 99_000)  # nobody's
    beats.advance(SUBJECT, {})
    assert beats.low_ms[SUBJECT] == 3_000


def test_a_unit_that_was_lost_knows_nothing_when_it_comes_back(beats):
    hear(beats, "intake/0", 5_000)
    hear(beats, "intake/1", 5_000)
    beats.advance(SUBJECT, {})
    beats.forget([SUBJECT])
    beats.advance(SUBJECT, {})
    assert SUBJECT not in beats.low_ms


def test_a_beat_is_told_once_to_every_partition_that_awaits_it(beats):
    beats.ends(1_000, {CALLS: 0, CONSENTS: 0}, [INTAKE])
    beats.advance(INTAKE, {CALLS: 0, CONSENTS: 0})
    news = list(beats.news([INTAKE, SUBJECT]))
    assert news == [(INTAKE, 1_000)]
    assert list(beats.listeners("intake")) == [("events", 0)] and list(beats.listeners("subject")) == []
    beats.told(news)
    assert list(beats.news([INTAKE])) == []
