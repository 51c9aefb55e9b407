"""The verifier finds what it is there to find: a true recording passes, and each way to spoil it is named."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.kafka.crash.verifier import OWN, RING_EACH, Findings, Recording, Row, verify

KEYS, EACH, PARTITIONS = 4, 23, 2


def appended(rows: list[tuple[int, bytes, bytes]]) -> list[Row]:
    """Records as a log holds them: offsets follow one another in each partition."""
    ends: Counter[int] = Counter()
    found = []
    for partition, key, value in rows:
        found.append(Row(partition, ends[partition], key, value))
        ends[partition] += 1
    return found


def true_recording() -> Recording:
    """What four keys with 23 events each leave behind when all goes well."""
    said = [(k % PARTITIONS, b"k%d" % k, n) for n in range(EACH) for k in range(KEYS)]
    events = [(p, key, b"%b:%d" % (key, n)) for p, key, n in said]
    counted = [(p, key, b"%b:%d %d" % (key, n, n + 1)) for p, key, n in said]
    rung = [(p, key, b"%d" % (n + 1)) for p, key, n in said if (n + 1) % RING_EACH == 0]
    ends = Counter(p for p, _, _ in said)
    state = [(p, b"s" + key, b"%d" % (n + 1)) for p, key, n in said]
    state += [(p, OWN + b"prelayed", end.to_bytes(8, "big")) for p, end in ends.items()]
    relay = [(p, OWN + b"pevents", end.to_bytes(8, "big")) for p, end in ends.items()]
    offsets = {(topic, p): end for topic in ("events", "relayed") for p, end in ends.items()}
    rows = [appended(r) for r in (events, events, counted, rung, state, relay)]
    names = ("events", "relayed", "counted", "rung", "changelog.count", "changelog.relay")
    return Recording(*rows, offsets, {name: len(of) for name, of in zip(names, rows, strict=True)})


Spoil = Callable[[list[Row]], list[Row]]


def drop(rows: list[Row]) -> list[Row]:
    return rows[:40] + rows[41:] if len(rows) > 40 else rows[1:]


def double(rows: list[Row]) -> list[Row]:
    return [*rows, rows[0]]


def swap(rows: list[Row]) -> list[Row]:
    """Two neighbours of one key change places."""
    first = 8
    second = next(n for n in range(first + 1, len(rows)) if rows[n].key == rows[first].key)
    found = list(rows)
    found[first], found[second] = found[second], found[first]
    return found


def alien(rows: list[Row]) -> list[Row]:
    return [*rows, rows[0]._replace(value=b"k0:999 24" if b" " in (rows[0].value or b"") else b"k0:999")]


def ring_early(rows: list[Row]) -> list[Row]:
    return [*rows, rows[0]._replace(value=b"7")]


def counts(change: int) -> Spoil:
    def spoil(rows: list[Row]) -> list[Row]:
        last = max(n for n, row in enumerate(rows) if row.key == b"sk1")
        return [row._replace(value=b"%d" % (EACH + change)) if n == last else row for n, row in enumerate(rows)]

    return spoil


def skip_a_count(rows: list[Row]) -> list[Row]:
    return [row._replace(value=row.value.replace(b" 5", b" 6")) if row.value == b"k2:4 5" else row for row in rows]


MUTANTS = [
    ("counted", drop, "missing"), ("counted", double, "duplicate"), ("counted", swap, "disordered"), ("counted", alien, "alien"),
    ("counted", skip_a_count, "disordered"), ("relayed", drop, "missing"), ("relayed", double, "duplicate"),
    ("relayed", swap, "disordered"), ("relayed", alien, "alien"), ("state", counts(-1), "lost"), ("state", counts(1), "doubled"),
    ("rung", drop, "alarms_missing"), ("rung", double, "alarms_duplicate"), ("rung", ring_early, "alarms_duplicate"),
]  # fmt: skip


def test_what_is_exact_passes() -> None:
    found = verify(true_recording())
    assert found.ok and found.events == KEYS * EACH
    assert found == Findings(KEYS * EACH, *[0] * (len(Findings._fields) - 1))


@pytest.mark.parametrize(("topic", "spoil", "finding"), MUTANTS, ids=[f"{t}-{f}-{n}" for n, (t, _, f) in enumerate(MUTANTS)])
def test_a_spoiled_recording_is_found_and_named(topic: str, spoil: Spoil, finding: str) -> None:
    true = true_recording()
    found = verify(true._replace(**{topic: spoil(list(getattr(true, topic)))}))
    assert getattr(found, finding) > 0, found
    assert not found.ok


@pytest.mark.parametrize("topic", ["events", "relayed"])
@pytest.mark.parametrize("change", [-1, 1])
def test_an_offset_that_is_not_what_the_changelog_says_is_found(topic: str, change: int) -> None:
    true = true_recording()
    moved = {**true.offsets, (topic, 1): true.offsets[topic, 1] + change}
    assert verify(true._replace(offsets=moved)).positions == 1


def test_an_offset_that_stands_before_the_last_record_is_found_although_the_changelog_agrees() -> None:
    true = true_recording()
    behind = true.offsets["events", 0] - 1
    relay = [row._replace(value=behind.to_bytes(8, "big")) if row.partition == 0 else row for row in true.relay]
    assert verify(true._replace(offsets={**true.offsets, ("events", 0): behind}, relay=relay)).positions == 1


def test_records_that_were_taken_back_are_counted_and_are_no_finding() -> None:
    true = true_recording()
    found = verify(true._replace(raw={**true.raw, "counted": true.raw["counted"] + 5}))
    assert found.ok and found.aborted == 5


def test_an_event_that_was_published_twice_is_the_publishers_fault() -> None:
    true = true_recording()
    with pytest.raises(AssertionError, match="published an event twice"):
        verify(true._replace(events=double(list(true.events))))
