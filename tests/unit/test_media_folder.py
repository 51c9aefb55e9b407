"""The folder shelf: what it deletes, what it never touches, and what it says of both."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from connectors.media import Evidence, FolderShelf, ShelfAway, ShelfImpossible, Shelves
from connectors.media.shelf import sidecars_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "recordings"
    (made / "2026" / "02").mkdir(parents=True)
    (made / "2026" / "02" / "call 1.wav").write_bytes(b"RIFF")
    (tmp_path / "secret.txt").write_text("not a recording")
    return made


def shelf(root: Path) -> FolderShelf:
    return FolderShelf([root], (".json", ".txt"))


@pytest.mark.parametrize(
    "uri", ["file://{}/2026/02/call%201.wav", "file:{}/2026/02/call%201.wav", "FILE://localhost{}/2026/02/call%201.wav",
            "{}/2026/02/call 1.wav"],
)  # fmt: skip
def test_a_recording_goes_by_every_spelling_of_its_address(root: Path, uri: str) -> None:
    done = shelf(root).delete(uri.format(root))
    assert done == Evidence(outcome="done", code="deleted", shelf="folder", removed=1)
    assert not list((root / "2026" / "02").iterdir())


def test_sidecars_go_with_it_and_neighbours_stay(root: Path) -> None:
    folder = root / "2026" / "02"
    for name in ("call 1.wav.json", "call 1.json", "call 1.wav.txt", "call 1.wav.xml", "call 12.json", "call 1.wav2"):
        (folder / name).write_text("{}")
    done = shelf(root).delete(f"file://{root}/2026/02/call%201.wav")
    assert (done.code, done.removed) == ("deleted", 4)
    assert sorted(p.name for p in folder.iterdir()) == ["call 1.wav.xml", "call 1.wav2", "call 12.json"]


def test_what_is_missing_is_evidence_and_its_sidecars_still_go(root: Path) -> None:
    (root / "gone.wav.json").write_text("{}")
    assert shelf(root).delete(f"{root}/gone.wav") == Evidence(outcome="done", code="missing", shelf="folder", removed=1)
    assert not (root / "gone.wav.json").exists()
    for uri in (f"{root}/gone.wav", f"{root}/no/such/folder/x.wav", f"{root}/2026/02/call 1.wav/x.wav", f"{root}/{'x' * 300}"):
        assert shelf(root).delete(uri) == Evidence(outcome="done", code="missing", shelf="folder")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("{root}/../secret.txt", "outside"), ("file://{root}/%2e%2e/secret.txt", "outside"),
        ("file://{root}/..%2fsecret.txt", "outside"), ("{root}/2026/./02/call 1.wav", "outside"),
        ("{root}//2026/02/call 1.wav", "outside"), ("{root}", "outside"), ("{root}/", "outside"), ("/", "outside"),
        ("{root}-other/x.wav", "outside"), ("{top}/secret.txt", "outside"), ("/dev/null", "outside"),
        ("{root}/2026/02", "not-a-file"), ("{root}/2026/02/", "outside"),
        ("file:recordings/x.wav", "not-an-address"), ("file://elsewhere.example{root}/x.wav", "not-an-address"),
        ("file://{root}/x.wav?versionId=1", "not-an-address"), ("file://{root}/x.wav#1", "not-an-address"),
        ("file://{root}/x%00.wav", "not-an-address"), ("{root}/x\n.wav", "not-an-address"), ("file://[{root}", "not-an-address"),
    ],
)  # fmt: skip
def test_nothing_outside_of_its_roots_is_touched(root: Path, uri: str, code: str) -> None:
    before = sorted(root.parent.rglob("*"))
    refused = shelf(root).delete(uri.format(root=root, top=root.parent))
    assert (refused.outcome, refused.code, refused.removed) == ("failed", code, 0)
    assert sorted(root.parent.rglob("*")) == before


def test_no_link_leads_out_and_no_device_is_touched(root: Path) -> None:
    outside = root.parent / "elsewhere"
    outside.mkdir()
    (outside / "x.wav").write_bytes(b"RIFF")
    (root / "folder").symlink_to(outside)
    (root / "link.wav").symlink_to(outside / "x.wav")
    (root / "dangling.wav").symlink_to(outside / "none")
    (root / "beside.wav").write_bytes(b"RIFF")
    (root / "beside.json").symlink_to(outside / "x.wav")
    os.mkfifo(root / "pipe.wav")
    for name in ("folder/x.wav", "link.wav", "dangling.wav", "pipe.wav", "beside.wav"):
        assert shelf(root).delete(f"{root}/{name}") == Evidence(outcome="failed", code="not-a-file", shelf="folder"), name
    assert (outside / "x.wav").exists() and (root / "beside.wav").exists() and (root / "link.wav").is_symlink()


def test_a_recording_with_a_second_name_is_not_said_to_be_gone(root: Path) -> None:
    (root / "other.wav").hardlink_to(root / "2026" / "02" / "call 1.wav")
    assert shelf(root).delete(f"{root}/other.wav") == Evidence(outcome="failed", code="hard-linked", shelf="folder")
    assert (root / "other.wav").exists()


def test_a_root_that_is_not_what_it_was_proves_nothing(root: Path) -> None:
    one = shelf(root)
    root.rename(root.with_name("away"))
    with pytest.raises(ShelfAway, match="root"):
        one.delete(f"{root}/2026/02/call 1.wav")
    root.mkdir()  # as the bare mount point of a disk that is not there
    with pytest.raises(ShelfAway, match="root"):
        one.delete(f"{root}/2026/02/call 1.wav")


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Nobody in particular, in a folder that only others may change."""
    if os.geteuid() == 0:
        os.seteuid(65_534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)


def test_a_folder_that_may_not_be_changed_is_denied() -> None:
    with TemporaryDirectory() as made:  # pytest's own folders are shut for others
        Path(made).chmod(0o755)
        (Path(made) / "x.wav").write_bytes(b"RIFF")
        one = FolderShelf([Path(made)])
        with without_rights(Path(made)):
            denied = one.delete(f"{made}/x.wav")
        assert denied == Evidence(outcome="failed", code="denied", shelf="folder")
        assert one.delete(f"{made}/x.wav").code == "deleted"


@pytest.mark.parametrize("wrong", ["relative", "/", "/nowhere/at/all", "/tmp/../etc", "/dev/null"])
def test_roots_that_could_not_work_are_refused_by_name(wrong: str) -> None:
    with pytest.raises(ShelfImpossible, match=r"media\.roots") as refused:
        FolderShelf([Path(wrong)])
    assert "nowhere" not in str(refused.value)


@pytest.mark.parametrize("wrong", ["json", ".", "..", "./x", ""])
def test_suffixes_that_name_more_than_a_neighbour_are_refused(root: Path, wrong: str) -> None:
    with pytest.raises(ShelfImpossible, match=r"media\.sidecars"):
        FolderShelf([root], (wrong,))


def test_what_lies_beside_a_recording_is_never_itself() -> None:
    assert sidecars_of("a/call.wav", (".json", ".wav")) == ["a/call.wav.json", "a/call.wav.wav", "a/call.json"]
    assert sidecars_of(".hidden", (".json",)) == [".hidden.json"]


def test_an_address_that_nobody_takes_has_failed_with_a_code(root: Path) -> None:
    shelves = Shelves([shelf(root)])
    codes = {uri: shelves.delete(uri).code for uri in ("ftp://x.example/a", "s3://bucket/a", "", "call.wav", "x" * 5_000)}
    assert list(codes.values()) == ["unknown-place", "unknown-place", "not-an-address", "unknown-place", "not-an-address"]
    assert shelves.delete(None) == Evidence(outcome="failed", code="no-address")
