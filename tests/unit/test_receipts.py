"""A receipt and a public key tell what became of a request; the same file with one bit changed, or one word, tells nothing."""

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.merkle import Frontier, inclusion_proof, leaf_hash
from engine.notes import Checkpoint, Signer
from engine.proofs import check_proof
from engine.receipt_summary import summary_of
from engine.receipts import (
    Proven,
    Receipt,
    ReceiptInvalid,
    Section,
    Stated,
    Target,
    check_receipt,
    make_receipt,
    receipt_json,
)
from schemas.codec import encode
from schemas.topics import AuditEntry

SIGNER = Signer("consentinel/test", bytes(range(32)))
STRANGER = Signer("consentinel/test", bytes(32))
CASE, SUBJECT = "consentinel/test/case/0", "consentinel/test/subject/3"
NOW = 1_800_000_000_000
ONE, TWO, HOME = "1" * 64, "2" * 64, "3" * 64


def log_of(origin: str, *told: tuple[str, dict[str, str], str]) -> list[AuditEntry]:
    """A log of (kind, facts, subject), a second apart; facts without a request belong to nobody's receipt."""
    return [AuditEntry(origin=origin, index=n, at_ms=NOW + n * 1000, kind=kind, controller="acme", facts=facts, subject=subject)
            for n, (kind, facts, subject) in enumerate(told)]  # fmt: skip


def about(kind: str, subject: str = "", /, request: str = "r1", **facts: str) -> tuple[str, dict[str, str], str]:
    return kind, {**facts, "request": request}, subject


CASES = log_of(
    CASE,
    ("controller.configured", {"version": "1"}, ""),
    about("request.opened", right="erasure", regime="gdpr", due_ms="1802592000000", received_via="phone call"),
    about("request.opened", request="r2", right="access", regime="gdpr"),
    about("request.identity_verified", state="in_progress", by="act_x"),
    about("erasure.ordered", identifiers="2", targets="2"),
    about("erasure.acknowledged", target="warehouse", outcome="failed", order="r1.0"),
    about("erasure.acknowledged", target="warehouse", outcome="done", order="r1.0"),
    about("erasure.acknowledged", target="dialer", outcome="held", order="r1.0", ground="art17_3_b"),
    about("erasure.acknowledged", target="dialer", outcome="done", order="r1.0"),
    about("key.shredded"),
    about("request.closed", state="fulfilled"),
    about("erasure.removed", target="warehouse", how="vacuum"),
    about("kek.destroyed", epoch="7"),
    about("removal.bound", **{"topics.raw": "2027-01-23T08:00:00.000Z"}),
    about("removal.done", place="store"),
    about("removal.done", place="store"),
    about("request.scanned", verdict="found", digest="d" * 64, found="1", needles="3", scanned_at="2027-01-15T08:00:00+00:00"),
    ("keys.rotation_began", {"epoch": "2"}, ""),
    ("keys.epochs_destroyed", {"before_epoch": "2", "epochs": "4096"}, ""),
)
SUBJECTS = log_of(
    SUBJECT,
    about("erasure.fenced", TWO, index="1"),
    about("erasure.fenced", ONE, index="0"),
    *[about("item.destroyed", ONE, cause="request")] * 3,
    ("item.protected", {"party_role": "customer"}, ONE),
    about("item.destroyed", HOME, cause="request"),
    about("erasure.held", TWO, items="0", held="1"),
    about("erasure.done", ONE, items="3", held="0"),
    about("erasure.done", TWO, items="1", held="0"),
)
DONE = Stated("fulfilled", 1802592000000)


def section_of(log: list[AuditEntry], size: int, signer: Signer = SIGNER, request: str = "r1") -> Section:
    leaves = [encode(entry) for entry in log[:size]]
    hashes, tree = [leaf_hash(leaf) for leaf in leaves], Frontier()
    tree.extend(leaves)
    note = signer.sign(Checkpoint(log[0].origin, size, tree.root()).format())
    mine = [n for n, e in enumerate(log[:size]) if e.facts.get("request") == request or e.kind.startswith("keys.")]
    return Section(note, tuple(Proven(n, leaves[n], tuple(inclusion_proof(hashes, n))) for n in mine))


def whole(signer: Signer = SIGNER) -> Receipt:
    sections = section_of(CASES, len(CASES)), section_of(SUBJECTS, len(SUBJECTS))
    return make_receipt("r1", "acme", NOW + 60_000, DONE, sections, signer)


def small() -> Receipt:
    stated = Stated("in_progress", 1802592000000, (Target("warehouse", NOW), Target("the dialer", NOW)))
    return make_receipt("r1", "acme", NOW + 60_000, stated, [section_of(CASES, 4)], SIGNER)


def tiny() -> Receipt:
    return make_receipt("r1", "acme", NOW, Stated("opened", 1), [section_of(CASES, 2)], SIGNER)


def both(receipt: Receipt) -> Iterator[bytes]:
    yield receipt.text().encode()
    yield receipt_json(receipt.document())


def code_of(data: bytes, vkey: str = SIGNER.vkey) -> str:
    with pytest.raises(ReceiptInvalid) as fault:
        check_receipt(data, vkey)
    return fault.value.code


def resigned(text: str, change: Callable[[str], str], signer: Signer = SIGNER) -> bytes:
    """The receipt with another body, signed anew by whoever has the key: only the entries can refute it."""
    head, _, rest = text.partition("\n\n")
    body = change(rest.partition("\n\n")[2])
    assert body != rest.partition("\n\n")[2]
    lines = [*head.split("\n")[:-1], "sha256 " + b64encode(sha256(body.encode()).digest()).decode()]
    return (signer.sign("\n".join(lines) + "\n") + "\n" + body).encode()


def test_file_and_key_alone_say_what_happened() -> None:
    for data in both(whole()):
        found = check_receipt(data, SIGNER.vkey)
        assert found == whole()
        summary = found.summary
        assert (summary.asked["right"], summary.asked["regime"], summary.asked_ms) == ("erasure", "gdpr", NOW + 1000)
        assert (summary.state, summary.complete, summary.closed_ms) == ("fulfilled", True, NOW + 10_000)
        assert (summary.identifiers_ordered, summary.identifiers_erased) == (2, 2)
        assert (summary.targets_ordered, summary.targets_done) == (2, 2)
        assert [(p.name, p.outcome, p.subject) for p in summary.identifiers][:2] == [("0", "erased", ONE), ("1", "erased", TWO)]
        assert [(p.outcome, p.subject) for p in summary.identifiers][2:] == [("reached", HOME)]
        assert [(p.name, p.outcome) for p in summary.targets] == [("dialer", "done"), ("warehouse", "done")]
        destroyed = next(h for h in summary.identifiers[0].happened if h.kind == "item.destroyed")
        assert (destroyed.count, destroyed.first_ms, destroyed.last_ms) == (3, NOW + 2000, NOW + 4000)
        assert ("kek.destroyed", {"epoch": "7"}) in [(h.kind, h.facts) for h in summary.others]
        assert ("erasure.removed", {"how": "vacuum", "target": "warehouse"}) in [
            (h.kind, h.facts) for h in summary.targets[1].happened
        ]


def test_what_is_unreadable_what_was_seen_to_go_and_what_is_only_bound_are_told_apart() -> None:
    for data in both(whole()):
        found = check_receipt(data, SIGNER.vkey).summary
        assert (found.gone.keys, found.gone.keys_ms, found.gone.epochs_ms) == (1, NOW + 9_000, NOW + 18_000)
        assert found.gone.removed == {"store": (2, NOW + 15_000)}
        assert found.gone.bounds == {"topics.raw": "2027-01-23T08:00:00.000Z"}
        assert (found.scan["verdict"], found.scan["digest"]) == ("found", "d" * 64)
    lines = whole().text().split("\n")
    start = lines.index("targets 2 of 2 done")
    assert lines[start + 1 : start + 7] == [
        "unreadable 1 keys shredded by 2027-01-15T08:00:09.000Z", "unreadable copies of keys by 2027-01-15T08:00:18.000Z",
        "removed store 2 by 2027-01-15T08:00:15.000Z", "bound topics.raw 2027-01-23T08:00:00.000Z",
        "scan found scanned_at=2027-01-15T08:00:00+00:00 needles=3 found=1", "request",
    ]  # fmt: skip


@pytest.mark.parametrize("change", [
    lambda body: body.replace("scan found ", "scan clean "), lambda body: body.replace("unreadable 1 keys", "unreadable 2 keys"),
    lambda body: body.replace("removed store 2 by 2027-01-15T08:00:15", "removed store 2 by 2027-01-15T08:00:14"),
    lambda body: body.replace("bound topics.raw 2027-01-23", "bound topics.raw 2027-01-22"),
    lambda body: body.replace("copies of keys by 2027-01-15T08:00:18", "copies of keys by 2027-01-15T08:00:17"),
])  # fmt: skip
def test_none_of_these_lines_says_more_than_the_entries(change: Callable[[str], str]) -> None:
    assert code_of(resigned(whole().text(), change)) == "summary_differs"


def test_a_receipt_of_what_is_not_done_says_so_and_what_is_open_on_the_signers_word() -> None:
    for data in both(small()):
        found = check_receipt(data, SIGNER.vkey)
        assert not found.summary.complete and found.summary.state == "in_progress"
        assert [target.target for target in found.stated.open] == ["warehouse", "the dialer"]
    lines = small().text().split("\n")
    assert lines[:7] == ["consentinel/receipt@v1", "request r1", "controller acme", f"made {NOW + 60_000}", "state in_progress",
                         "due 1802592000000", f"open warehouse {NOW}"]  # fmt: skip
    assert "complete no" in lines and "identifiers 0 of 0 erased" in lines
    assert f'open "the dialer" {NOW}' in lines


def test_a_complete_receipt_states_nothing_open() -> None:
    sections = [section_of(CASES, len(CASES))]
    for stated in (Stated("fulfilled", 1, (Target("warehouse", 1),)), Stated("in_progress", 1)):
        with pytest.raises(ReceiptInvalid) as fault:
            make_receipt("r1", "acme", NOW, stated, sections, SIGNER)
        assert fault.value.code == "summary_differs"


def test_each_entry_can_be_cut_out_as_a_proof_of_the_specification() -> None:
    body = whole().text().split("\n\n", 2)[2]
    blocks = body[:-1].split("\n\n")
    proofs = [block for block in blocks if block.startswith("c2sp.org/tlog-proof@v1\n")]
    assert len(proofs) == len(whole().entries)
    assert check_proof(f"{proofs[0]}\n\n{blocks[1]}\n\n{blocks[2]}\n", None, SIGNER.vkey, CASE).size == len(CASES)


@pytest.mark.parametrize("form", [0, 1])
def test_any_bit_flipped_in_a_small_receipt_is_found(form: int) -> None:
    raw = bytearray(list(both(tiny()))[form])
    for bit in range(len(raw) * 8):
        raw[bit // 8] ^= 1 << bit % 8
        code_of(bytes(raw))
        raw[bit // 8] ^= 1 << bit % 8
    check_receipt(bytes(raw), SIGNER.vkey)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_lost_or_added_are_found(data: st.DataObject) -> None:
    raw = list(both(small()))[data.draw(st.integers(0, 1))]
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, len(raw)))
    new = data.draw(st.binary(max_size=4) | st.sampled_from([b"\n", b"\n\n", b" "]))
    if raw[start:stop] != new:
        code_of(raw[:start] + new + raw[stop:])


def outsider(path: Path, key: str) -> subprocess.CompletedProcess[str]:
    """The program that the documentation gives to whoever does not want ours."""
    page = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    return subprocess.run([sys.executable, "-I", "-c", program, str(path), key], capture_output=True, text=True, check=False)


def test_the_documented_program_comes_to_the_same_verdict(tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    path.write_text(whole().text())
    done = outsider(path, SIGNER.vkey)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("entry ") == len(whole().entries)
    for wrong in (whole(STRANGER).text(), whole().text().replace("index 1\n", "index 2\n"), whole().text() + "\n"):
        path.write_text(wrong)
        assert outsider(path, SIGNER.vkey).returncode == 1


SIGNATURE_OF_ANOTHER = STRANGER.sign("x\n").split("\n\n")[1].replace("consentinel/test", "witness.example.com")


@pytest.mark.parametrize(("change", "code"), [
    (lambda body: body.replace("complete no", "complete yes"), "summary_differs"),
    (lambda body: body.replace("request.opened", "request.closed"), "summary_differs"),
    (lambda body: body.replace("right=erasure", "right=access"), "summary_differs"),
    (lambda body: body.replace("\nrequest\n", "\nand all is well\nrequest\n"), "summary_differs"),
    (lambda body: body.rpartition("\n\n")[0] + "\n", "summary_differs"),  # an entry less
    (lambda body: body + "\n", "summary_differs"),
    (lambda body: body + "\n" + body.rpartition("\n\n")[2], "receipt_malformed"),  # an entry twice
    (lambda body: body.replace("index 1\n", "index 3\n"), "not_included"),
    (lambda body: body.replace("index 1\n", "index 01\n"), "receipt_malformed"),
    (lambda body: body.replace("extra ", "extra  "), "receipt_malformed"),
    (lambda body: body.partition("\n\n")[0] + "\n", "receipt_malformed"),
    (lambda body: "", "receipt_malformed"),
])  # fmt: skip
def test_a_body_signed_anew_says_no_more_than_its_entries(change: Callable[[str], str], code: str) -> None:
    assert code_of(resigned(small().text(), change)) == code


@pytest.mark.parametrize("change", [
    lambda d: d | {"complete": True}, lambda d: d | {"summary": d["summary"] | {"complete": True}}, lambda d: d | {"more": 1},
    lambda d: {name: value for name, value in d.items() if name != "summary"},
    lambda d: d | {"entries": [d["entries"][0] | {"kind": "request.closed"}, *d["entries"][1:]]},
    lambda d: d | {"entries": [d["entries"][0] | {"facts": {}}, *d["entries"][1:]]},
    lambda d: d | {"stated": d["stated"] | {"open": []}}, lambda d: d | {"made_ms": 1}, lambda d: d | {"request": "r2"},
    lambda d: d | {"entries": d["entries"][1:]}, lambda d: d | {"entries": d["entries"][::-1]}, lambda d: d | {"entries": []},
    lambda d: d | {"checkpoints": []}, lambda d: d | {"checkpoints": d["checkpoints"] * 2},
    lambda d: d | {"signature": d["signature"] + "\n" + SIGNATURE_OF_ANOTHER[:-1]}, lambda d: d | {"entries": "x"},
    lambda d: d | {"entries": [d["entries"][0] | {"index": -1}]}, lambda d: d | {"request": "\ud800"},
])  # fmt: skip
def test_no_word_of_the_json_form_is_believed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    changed = change(small().document())
    assert changed != small().document()
    code_of(receipt_json(changed))


def test_json_has_one_spelling() -> None:
    data = receipt_json(small().document())
    assert code_of(json.dumps(small().document(), indent=1).encode()) == "summary_differs"
    assert code_of(data[:-1]) == "summary_differs"
    assert code_of(data.replace(b'{"format"', b'{"made_ms": 1, "format"')) == "summary_differs"
    assert code_of(b'{"a":' * 100_000) == "receipt_malformed"


def test_what_was_not_signed_is_not_even_read() -> None:
    text = small().text()
    assert code_of(text.replace("complete no", "complete yes").encode()) == "body_differs"
    assert code_of(text.replace("extra ", "extra !").encode()) == "body_differs"
    assert code_of(text.replace("state in_progress", "state fulfilled", 1).encode()) == "signature_wrong"


def test_a_receipt_of_another_key_or_with_another_signature_beside_is_refused() -> None:
    text = small().text()
    assert code_of(text.encode(), STRANGER.vkey) == "signature_missing"
    witnessed = text.replace("\n\n", "\n\n" + SIGNATURE_OF_ANOTHER, 1)
    assert code_of(witnessed.encode()) == "receipt_malformed"
    mixed = make_receipt("r1", "acme", NOW, small().stated, [section_of(CASES, 4, STRANGER)], SIGNER)
    for data in both(mixed):
        assert code_of(data) == "signature_missing"  # the checkpoints are not the signer's
    for data in (b"", b"\n\n\n\n", b"\xff", b"{}", b"[]", text.partition("\n\n")[0].encode()):
        assert code_of(data) in ("receipt_malformed", "note_malformed")


def test_entries_of_another_request_controller_or_place_make_no_receipt() -> None:
    mine = section_of(CASES, 4)
    alien = section_of(CASES, 4, request="r2")
    moved = Section(mine.note, (msgspec.structs.replace(mine.entries[0], index=0),))
    for sections, request, controller in (([alien], "r1", "acme"), ([mine], "r2", "acme"), ([mine], "r1", "rival"),
                                          ([moved], "r1", "acme")):  # fmt: skip
        with pytest.raises(ReceiptInvalid) as fault:
            make_receipt(request, controller, NOW, small().stated, sections, SIGNER)
        assert fault.value.code == "entry_foreign"
    for wrong in ([], [mine, mine], [Section(mine.note, ())], [Section(mine.note, mine.entries[::-1])]):
        with pytest.raises(ReceiptInvalid):
            make_receipt("r1", "acme", NOW, small().stated, wrong, SIGNER)


def test_values_with_other_characters_than_a_code_cannot_forge_a_line() -> None:
    hostile = "x\n\ncomplete yes\nc2sp.org/tlog-proof@v1\né “"
    opened = about("request.opened", request=hostile, received_via=hostile)
    log = log_of(CASE, opened, about(hostile, request=hostile, target=hostile))
    stated = Stated("opened", 1, (Target(hostile, 1),))
    receipt = make_receipt(hostile, "acme", NOW, stated, [section_of(log, 2, request=hostile)], SIGNER)
    for data in both(receipt):
        assert check_receipt(data, SIGNER.vkey) == receipt
    assert "complete yes" not in receipt.text().split("\n")


@given(st.permutations(range(3)))
def test_a_target_is_as_bad_as_its_worst_last_answer(order: list[int]) -> None:
    last = [about("erasure.acknowledged", target="t", order=str(n), outcome=("done", "held", "failed")[n]) for n in order]
    first = [about("erasure.acknowledged", target="t", order=str(n), outcome="failed") for n in range(3)]

    def outcome(answers: list[tuple[str, dict[str, str], str]]) -> str:
        return summary_of(log_of(CASE, *first, *answers)).targets[0].outcome

    assert outcome(last) == "failed"
    assert outcome([*last, about("erasure.acknowledged", target="t", order="2", outcome="done")]) == "held"
