"""A folder shelf: `file:` URIs and absolute paths below configured roots, and nothing that lies elsewhere.

The path is walked from the root, each folder opened relative to the one before without following symbolic links, so that no
link and no race leads out. A file goes with its sidecars, sidecars first: what a crash leaves is found again by the file. Then
the folder is synchronised, also when nothing was there: an attempt before may have died in between.

Bytes are not overwritten: file systems and disks that copy on write keep old blocks anyway (docs/media.md).
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from connectors.media.shelf import Evidence, Refusal, ShelfAway, ShelfImpossible, checked_suffixes, sidecars_of

SCHEME: Final = "file:"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


class FolderShelf:
    """Deletes files below `roots`."""

    def __init__(self, roots: Sequence[Path], sidecars: Sequence[str] = ()) -> None:
        """Raise `ShelfImpossible`."""
        self._suffixes = checked_suffixes(sidecars)
        self._roots: dict[tuple[str, ...], tuple[int, int]] = {}  # parts of its path → device and inode as of now
        for root in roots:
            parts = tuple(os.fspath(root).rstrip("/").split("/"))
            if parts[0] or not parts[1:] or {"", ".", ".."} & set(parts[1:]):
                raise ShelfImpossible("media.roots: each is an absolute path below /, without . and ..")
            try:
                self._roots[parts] = _identity(os.stat(root))
                os.close(os.open(root, _FOLDER))
            except OSError:
                raise ShelfImpossible("media.roots: one of them is not there, or is no folder that can be read") from None

    def takes(self, uri: str) -> bool:
        """See `Shelf`."""
        return uri.startswith("/") or uri[: len(SCHEME)].lower() == SCHEME

    def delete(self, uri: str) -> Evidence:
        """See `Shelf`."""
        try:
            root, (*folders, name) = self._place(uri)
            with self._opened(root) as at:
                return self._delete(at, folders, name)
        except Refusal as refusal:
            return Evidence(outcome="failed", code=refusal.code, shelf="folder")
        except OSError as fault:
            if fault.errno in (errno.EACCES, errno.EPERM):
                return Evidence(outcome="failed", code="denied", shelf="folder")
            if fault.errno == errno.EROFS:
                return Evidence(outcome="failed", code="read-only", shelf="folder")
        raise ShelfAway("disk")

    def _place(self, uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The parts of a root, and the parts below it. Raises `Refusal`."""
        parts = tuple(_path_of(uri).split("/"))
        if {"", ".", ".."} & set(parts[1:]):
            raise Refusal("outside")
        for root in sorted(self._roots, key=len, reverse=True):
            if parts[: len(root)] == root and len(parts) > len(root):
                return root, parts[len(root) :]
        raise Refusal("outside")

    @contextmanager
    def _opened(self, root: tuple[str, ...]) -> Iterator[int]:
        """The root's descriptor. Raises `ShelfAway` when it is not what it was: a disk that is not mounted proves nothing."""
        try:
            at = os.open("/".join(root), _FOLDER)
        except OSError:
            at = -1
        if at < 0:
            raise ShelfAway("root")
        try:
            if _identity(os.fstat(at)) != self._roots[root]:
                raise ShelfAway("root")
            yield at
        finally:
            os.close(at)

    def _delete(self, at: int, folders: Sequence[str], name: str) -> Evidence:
        if not folders:
            return self._remove(at, name)
        found = _look(at, folders[0])
        if found is None or not (stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            return Evidence(outcome="done", code="missing", shelf="folder")
        if stat.S_ISLNK(found.st_mode):
            raise Refusal("not-a-file")
        try:
            below = os.open(folders[0], _FOLDER | os.O_NOFOLLOW, dir_fd=at)
        except OSError as fault:
            if fault.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            below = -1
        if below < 0:
            raise Refusal("not-a-file")  # it became a link since we looked
        try:
            return self._delete(below, folders[1:], name)
        finally:
            os.close(below)

    def _remove(self, at: int, name: str) -> Evidence:
        """Remove the file and what lies beside it from the folder that `at` is."""
        there = [one for one in (*sidecars_of(name, self._suffixes), name) if _is_there(at, one)]
        for one in there:
            os.unlink(one, dir_fd=at)
        os.fsync(at)
        return Evidence(outcome="done", code="deleted" if name in there else "missing", shelf="folder", removed=len(there))


def _path_of(uri: str) -> str:
    """The path that an address means. Raises `Refusal`."""
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in uri):  # `urlsplit` would leave some of them out
        raise Refusal("not-an-address")
    path = uri
    if not uri.startswith("/"):
        try:
            split = urlsplit(uri)
        except ValueError:
            split = None
        if split is None or split.netloc.lower() not in ("", "localhost") or split.query or split.fragment:
            raise Refusal("not-an-address")
        path = os.fsdecode(unquote_to_bytes(split.path))
    if not path.startswith("/") or "\0" in path:
        raise Refusal("not-an-address")
    return path


def _is_there(at: int, name: str) -> bool:
    """Whether there is such a file. Raises `Refusal` for what is none, or has another name as well."""
    found = _look(at, name)
    if found is None:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("not-a-file")
    if found.st_nlink > 1:
        raise Refusal("hard-linked")
    return True


def _look(at: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError as fault:
        if fault.errno in _ABSENT:
            return None
        raise


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
