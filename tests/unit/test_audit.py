"""Whatever is done to the log behind our back is a finding; a log that nobody touched has none."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import FINDINGS_MAX, HOLES_MAX, AuditReport, LogDamaged, LogLine, leaf_hashes, verify_log
from engine.merkle import Frontier, inclusion_proof
from engine.notes import Checkpoint, NoteInvalid, Signer
from engine.proofs import check_proof, write_proof
from schemas.codec import encode
from schemas.topics import AuditCheckpoint, AuditEntry

SIGNER = Signer("example.com", bytes(range(32)))
STRANGER = Signer("example.com", bytes(32))
A, B = "example.com/subject/0", "example.com/subject/1"


def value_of(origin: str, index: int, kind: str = "consent.recorded") -> bytes:
    return encode(AuditEntry(origin=origin, index=index, at_ms=1_700_000_000_000 + index, kind=kind, controller="acme"))


def log_of(sizes: dict[str, int], seed: int = 0) -> list[LogLine]:
    """Origins mixed in one partition, each in its own order."""
    turns = [origin for origin, size in sizes.items() for _ in range(size)]
    random.Random(seed).shuffle(turns)
    places = dict.fromkeys(sizes, 0)
    lines: list[LogLine] = []
    for offset, origin in enumerate(turns):
        lines.append((0, offset * 2, value_of(origin, places[origin])))
        places[origin] += 1
    return lines


def tree_of(origin: str, size: int) -> Frontier:
    tree = Frontier()
    tree.extend(value_of(origin, at) for at in range(size))
    return tree


def note_of(origin: str, size: int, signer: Signer = SIGNER) -> str:
    return signer.sign(Checkpoint(origin, size, tree_of(origin, size).root()).format())


SIZES = {A: 12, B: 7}
LOG = log_of(SIZES)
NOTES = [note_of(A, size) for size in (0, 4, 8, 12)] + [note_of(B, 7)]
FRONTIERS = {origin: (size, tree_of(origin, size).root()) for origin, size in SIZES.items()}


def audit(
    lines: list[LogLine],
    notes: list[str] = NOTES,
    frontiers: dict[str, tuple[int, bytes]] | None = FRONTIERS,
) -> AuditReport:
    return verify_log(iter(lines), iter(notes), SIGNER.vkey, frontiers)


def found(report: AuditReport) -> set[tuple[str, int, int, str]]:
    assert report.ok is not bool(report.findings)
    return {(finding.origin, finding.index, finding.span, finding.code) for finding in report.findings}


def place_of(origin: str, index: int) -> int:
    return next(at for at, line in enumerate(LOG) if line[2] == value_of(origin, index))


def with_value(at: int, value: bytes) -> list[LogLine]:
    return [*LOG[:at], (*LOG[at][:2], value), *LOG[at + 1 :]]


def test_a_log_that_nobody_touched_is_ok() -> None:
    report = audit(LOG)
    assert report.ok
    assert report.entries == 19
    assert report.checkpoints == 5
    one, two = report.origins[A], report.origins[B]
    assert (one.size, one.checkpoints, one.confirmed, one.proven) == (12, 4, 4, 12)
    assert (two.size, two.checkpoints, two.confirmed, two.proven) == (7, 1, 1, 7)
    assert one.root == FRONTIERS[A][1].hex()
    assert msgspec.json.decode(msgspec.json.encode(report), type=AuditReport) == report


def test_a_third_party_needs_no_frontiers() -> None:
    assert audit(LOG, NOTES, None).ok
    report = audit(LOG, [note_of(A, 8)], None)
    assert report.ok
    assert {origin: tree.proven for origin, tree in report.origins.items()} == {A: 8, B: 0}


def test_an_empty_log_is_ok_and_proves_nothing() -> None:
    assert audit([], [], {}).ok
    assert audit([], [note_of(A, 0)], {A: (0, Frontier().root())}).origins[A].confirmed == 1


@given(st.dictionaries(st.sampled_from([A, B, "log/case/0"]), st.integers(0, 20), min_size=1), st.integers(0, 99))
def test_however_origins_mix_and_checkpoints_fall_the_log_is_ok(sizes: dict[str, int], seed: int) -> None:
    chance = random.Random(seed)
    notes = [note_of(origin, chance.randint(0, size)) for origin, size in sizes.items() for _ in range(3)]
    chance.shuffle(notes)
    frontiers = {origin: (size, tree_of(origin, size).root()) for origin, size in sizes.items()}
    lines = [(chance.randrange(3), offset, value) for _, offset, value in log_of(sizes, seed)]
    assert audit(lines, notes, frontiers).ok


def test_a_changed_entry_lies_between_two_checkpoints() -> None:
    report = audit(with_value(place_of(A, 5), value_of(A, 5, "consent.forged")))
    assert found(report) == {
        (A, 4, 4, "checkpoint_differs"),
        (A, 4, 8, "checkpoint_differs"),
        (A, 4, 8, "frontier_differs"),
    }
    assert report.origins[A].proven == 4
    # Where it showed: the record that completed the first size that does not fit.
    assert (report.findings[0].partition, report.findings[0].offset) == LOG[place_of(A, 7)][:2]


def test_entries_that_changed_places_but_kept_the_indexes_are_found() -> None:
    one, two = place_of(A, 5), place_of(A, 6)
    lines = with_value(one, value_of(A, 5, "two"))
    lines[two] = (*lines[two][:2], value_of(A, 6, "one"))
    assert (A, 4, 4, "checkpoint_differs") in found(audit(lines))


@pytest.mark.parametrize("index", range(11))
def test_a_dropped_entry_is_missing(index: int) -> None:
    at = place_of(A, index)
    report = audit(LOG[:at] + LOG[at + 1 :])
    assert found(report) == {(A, index, 1, "entry_missing")}
    assert (report.origins[A].size, report.origins[A].root) == (12, "")


def test_a_run_of_dropped_entries_is_one_finding() -> None:
    gone = {value_of(A, index) for index in range(3, 7)}
    assert found(audit([line for line in LOG if line[2] not in gone])) == {(A, 3, 4, "entry_missing")}


@pytest.mark.parametrize("frontiers", [FRONTIERS, None])
@pytest.mark.parametrize("kept", range(12))
def test_a_tail_that_was_cut_off_is_missing(kept: int, frontiers: dict[str, tuple[int, bytes]] | None) -> None:
    gone = {value_of(A, index) for index in range(kept, 12)}
    report = audit([line for line in LOG if line[2] not in gone], NOTES, frontiers)
    assert found(report) == {(A, kept, 12 - kept, "tail_missing")}


def test_the_frontier_alone_finds_a_missing_tail_and_a_lost_origin() -> None:
    gone = {value_of(A, 11)} | {value_of(B, index) for index in range(7)}
    report = audit([line for line in LOG if line[2] not in gone], [])
    assert found(report) == {(A, 11, 1, "tail_missing"), (B, 0, 7, "tail_missing")}


def test_an_entry_that_is_there_twice_was_added() -> None:
    at = place_of(A, 5)
    copy = audit([*LOG[: at + 1], LOG[at], *LOG[at + 1 :]])
    forged = audit([*LOG, (1, 7, value_of(A, 5, "consent.forged"))])
    assert found(copy) == found(forged) == {(A, 5, 1, "entry_added")}
    assert (forged.findings[0].partition, forged.findings[0].offset) == (1, 7)
    # The rest is whole, and the report says so.
    assert forged.origins[A].proven == 12


def test_a_forged_entry_in_front_of_the_true_one_is_found_by_the_root() -> None:
    at = place_of(A, 5)
    report = audit([*LOG[:at], (0, 0, value_of(A, 5, "consent.forged")), *LOG[at:]])
    assert {(A, 5, 1, "entry_added"), (A, 4, 4, "checkpoint_differs")} <= found(report)


def test_an_entry_added_at_the_end_is_found_by_the_frontier() -> None:
    lines = [*LOG, (0, 99, value_of(A, 12)), (0, 100, value_of(A, 13))]
    assert found(audit(lines)) == {(A, 12, 2, "tail_added")}
    # The notes alone cannot tell: they say how far they reach.
    report = audit(lines, NOTES, None)
    assert report.ok
    assert (report.origins[A].size, report.origins[A].proven) == (14, 12)


def test_an_origin_that_the_engine_does_not_know_is_found() -> None:
    assert found(audit([*LOG, (0, 99, value_of("evil", 0))])) == {("evil", 0, 1, "origin_unknown")}
    assert ("evil", 0, 0, "origin_unknown") in found(audit(LOG, [*NOTES, note_of("evil", 0)]))


@pytest.mark.parametrize("index", range(11))
def test_swapped_entries_moved(index: int) -> None:
    one, two = place_of(A, index), place_of(A, index + 1)
    lines = list(LOG)
    lines[one], lines[two] = lines[two], lines[one]
    assert found(audit(lines)) == {(A, index, 1, "entry_moved")}


def test_a_run_that_moved_is_one_finding() -> None:
    mine = [line for line in LOG if line[2] in {value_of(A, at) for at in range(12)}]
    assert found(audit(mine[6:] + mine[:6], [], {A: FRONTIERS[A]})) == {(A, 0, 6, "entry_moved")}


def test_an_entry_under_another_index_or_origin_is_found() -> None:
    at = place_of(A, 5)
    assert (A, 6, 1, "entry_added") in found(audit(with_value(at, value_of(A, 6))))
    assert (A, 5, 1, "entry_missing") in found(audit(with_value(at, value_of(A, 2**62))))
    assert {(A, -1, 1, "entry_added"), (A, 5, 1, "entry_missing")} <= found(audit(with_value(at, value_of(A, -1))))
    assert (A, 5, 1, "entry_missing") in found(audit(with_value(at, value_of(B, 5))))


@pytest.mark.parametrize("value", [b"", b"\x00", b"\xff" * 40, value_of(A, 5)[:-1], encode(AuditCheckpoint(note=""))])
def test_a_record_that_is_no_entry_is_a_finding_and_no_crash(value: bytes) -> None:
    at = place_of(A, 5)
    report = audit(with_value(at, value))
    assert found(report) == {("", -1, 1, "entry_unreadable"), (A, 5, 1, "entry_missing")}
    assert (report.findings[0].partition, report.findings[0].offset) == LOG[at][:2]


def test_any_bit_flipped_in_an_entry_is_found() -> None:
    at = place_of(A, 5)
    for bit in range(len(LOG[at][2]) * 8):
        value = bytearray(LOG[at][2])
        value[bit // 8] ^= 1 << bit % 8
        assert not audit(with_value(at, bytes(value))).ok
        assert not audit(with_value(at, bytes(value)), NOTES, None).ok


@settings(max_examples=150)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_any_other_order_or_choice_of_entries_is_found(order: list[int], kept: int) -> None:
    lines = [(0, place, value_of(A, index)) for place, index in enumerate(order[:kept])]
    assert audit(lines, [note_of(A, 12)], None).ok is (order[:kept] == list(range(12)))


def test_a_checkpoint_of_another_key_counts_for_nothing() -> None:
    report = audit(LOG, [note_of(A, 4), note_of(A, 8, STRANGER), "no note", SIGNER.sign("no checkpoint\n")])
    assert found(report) == {("", place, 1, "checkpoint_invalid") for place in (1, 2, 3)}
    assert report.origins[A].confirmed == 1


def test_a_signer_that_tells_two_stories_is_found() -> None:
    lie = SIGNER.sign(Checkpoint(A, 8, bytes(32)).format())
    assert (A, 0, 8, "checkpoint_conflict") in found(audit(LOG, [*NOTES, lie]))
    assert {(A, 0, 8, "checkpoint_conflict"), (A, 4, 4, "checkpoint_differs")} <= found(audit(LOG, [lie, *NOTES]))
    assert audit(LOG, [*NOTES, NOTES[1]]).ok


def test_an_empty_tree_has_one_root() -> None:
    lie = SIGNER.sign(Checkpoint(A, 0, bytes(32)).format())
    assert found(audit(LOG, [lie])) == {(A, 0, 0, "checkpoint_differs")}
    assert found(audit([], [], {A: (0, bytes(32))})) == {(A, 0, 0, "frontier_differs")}


def test_a_frontier_that_is_not_the_log_is_found() -> None:
    report = audit(LOG, NOTES, FRONTIERS | {B: (7, bytes(32))})
    assert found(report) == {(B, 0, 7, "frontier_differs")}
    # Where signature and engine disagree nothing is proven, although the signature fits.
    assert (report.origins[B].confirmed, report.origins[B].proven) == (1, 0)
    assert found(audit(LOG, NOTES, FRONTIERS | {B: (6, tree_of(B, 6).root())})) == {(B, 6, 1, "tail_added")}


def test_a_vkey_that_is_none_is_the_callers_fault() -> None:
    with pytest.raises(NoteInvalid):
        verify_log([], [], "no key")


def test_findings_are_bounded_and_none_goes_uncounted() -> None:
    lines = [(0, at, b"") for at in range(FINDINGS_MAX + 5)]
    report = audit(lines, [], {})
    assert (len(report.findings), report.left_off, report.ok) == (FINDINGS_MAX, 5, False)


def test_more_holes_than_are_kept_are_still_found() -> None:
    lines = [(0, at, value_of(A, at * 2)) for at in range(HOLES_MAX + 50)]
    report = audit(lines, [], None)
    assert found(report) == {(A, at * 2 + 1, 1, "entry_missing") for at in range(HOLES_MAX + 49)}
    # A hole beyond the bound was reported and forgotten, so what comes late to it is something new.
    last = HOLES_MAX * 2 + 1
    assert (A, last, 1, "entry_added") in found(audit([*lines, (0, 999, value_of(A, last))], [], None))


def test_holes_that_fall_apart_stay_bounded() -> None:
    order = [2000, *range(1, 2 * HOLES_MAX + 20, 2)]
    report = audit([(0, at, value_of(A, index)) for at, index in enumerate(order)], [], None)
    gaps = sum(finding.span for finding in report.findings if finding.code == "entry_missing")
    rest = {index for finding in report.findings if finding.code != "entry_missing" for index in [finding.index]}
    assert gaps + len(order) - 1 >= 2000 > gaps
    assert rest == set(order[1:])


def test_a_proof_can_be_cut_from_the_log() -> None:
    hashes = leaf_hashes(LOG, A, size=8)
    text = write_proof(value_of(A, 5), 5, inclusion_proof(hashes, 5), note_of(A, 8))
    assert check_proof(text, None, SIGNER.vkey, A) == Checkpoint(A, 8, tree_of(A, 8).root())
    assert len(leaf_hashes(LOG, A)) == 12
    assert leaf_hashes(LOG, "nobody") == []


def test_no_proof_is_cut_from_a_damaged_log() -> None:
    at = place_of(A, 5)
    for lines, size in ((LOG[:at] + LOG[at + 1 :], 8), (LOG, 13), ([LOG[at], *LOG], None)):
        with pytest.raises(LogDamaged) as fault:
            leaf_hashes(lines, A, size=size)
        assert fault.value.code == "index_order"
