"""Sends files to the door: nothing is dropped silently, every document is counted as accepted or refused with its code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from connectors.cli.client import BATCH, Door, problem_of
from connectors.cli.faults import BadUsage, Unanswered

BATCH_EVENTS = 500
BATCH_BYTES = 4 * 1_048_576  # half of what the door takes: a batch is never refused for its size
VCON_SUFFIXES = (".vcon", ".vcon.json")
SUFFIXES = (".json", ".jsonl", ".ndjson", ".vcon")
VCON_MARKS = ("parties", "payload", "ciphertext", "vcon")
REFUSED_FROM = 300
MIXED = 207  # a batch with bad ones: one result each


class Refusal(msgspec.Struct, frozen=True):
    """One document that was not accepted; `place` is its line, or its place in an array, from 1, or 0 for the file."""

    file: str
    place: int
    code: str
    field: str = ""


class Tally(msgspec.Struct):
    """What became of the documents. `events` are those accepted, with the ones that vCons became."""

    accepted: int = 0
    refused: int = 0
    events: int = 0
    files: int = 0
    passed_over: int = 0
    refusals: list[Refusal] = []


class Found(NamedTuple):
    """One document in a file: an event, the bytes of a vCon, or why it is neither."""

    place: int
    event: dict[str, Any] | None = None
    vcon: bytes | None = None
    code: str = ""


class Publisher:
    """Publishes files through a door, in order; `tally` counts."""

    def __init__(self, door: Door, controller: str | None) -> None:
        self._door, self._controller = door, controller
        self._batch: list[tuple[str, int, bytes]] = []
        self._bytes = 0
        self.tally = Tally()

    def publish(self, path: Path) -> Tally:
        """Publish a file, or all files of a folder in sorted order; what has no suffix of ours there is passed over."""
        if not path.exists():
            raise Unanswered("there is no such file or folder")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            if path.is_dir() and not file.name.lower().endswith(SUFFIXES):
                self.tally.passed_over += 1
                continue
            self.tally.files += 1
            self._file(file, str(file.relative_to(path)) if path.is_dir() else file.name)
        self.flush()
        return self.tally

    def _file(self, file: Path, name: str) -> None:
        try:
            data = file.read_bytes()
        except OSError:
            self._refuse(name, 0, "unreadable")
            return
        for found in documents(data, vcon=file.name.lower().endswith(VCON_SUFFIXES)):
            if found.event is not None:
                self._event(name, found.place, found.event)
            elif found.vcon is not None:
                self._vcon(name, found.place, found.vcon)
            else:
                self._refuse(name, found.place, found.code)

    def _event(self, name: str, place: int, event: dict[str, Any]) -> None:
        if self._controller is not None:
            event.setdefault("controller", self._controller)
        body = json.dumps(event).encode()
        if len(self._batch) >= BATCH_EVENTS or self._bytes + len(body) > BATCH_BYTES:
            self.flush()
        self._batch.append((name, place, body))
        self._bytes += len(body)

    def flush(self) -> None:
        """Send the batch."""
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        body = b"[" + b",".join(event for _, _, event in batch) + b"]"
        response = self._door.send("POST", "/v1/events", content=body, headers={"content-type": BATCH})
        _stop_if_nobody_answers(response)
        if response.status_code >= REFUSED_FROM and len(batch) > 1:
            for one in batch:  # one document spoilt the whole body; alone, each gets its own answer
                self._batch = [one]
                self.flush()
            return
        if response.status_code == MIXED:
            results = _results(response)
        else:
            results = [(response.status_code, *_problem(response))] * len(batch)
        if len(results) != len(batch):
            raise Unanswered("the service's answer does not fit what was sent")
        for (name, place, _), (status, code, field) in zip(batch, results, strict=True):
            if status < REFUSED_FROM:
                self.tally.accepted += 1
                self.tally.events += 1
            else:
                self._refuse(name, place, code, field)

    def _vcon(self, name: str, place: int, body: bytes) -> None:
        if self._controller is None:
            raise BadUsage("a vCon does not say whose it is: give --controller")
        self.flush()  # in the order of the files
        response = self._door.send(
            "POST", "/v1/vendors/vcon", params={"controller": self._controller}, content=body,
            headers={"content-type": "application/vcon+json"},
        )  # fmt: skip
        _stop_if_nobody_answers(response)
        if response.status_code >= REFUSED_FROM:
            self._refuse(name, place, *_problem(response))
            return
        self.tally.accepted += 1
        ids = response.json()
        ids = ids.get("ids", ids.get("events", [])) if isinstance(ids, dict) else ids
        self.tally.events += len(ids) if isinstance(ids, list) else 0

    def _refuse(self, name: str, place: int, code: str, field: str = "") -> None:
        self.tally.refused += 1
        self.tally.refusals.append(Refusal(name, place, code, field))


def documents(data: bytes, *, vcon: bool) -> Iterator[Found]:
    """The documents in a file: a vCon by suffix or content, one event, an array of them, or one a line."""
    if vcon:
        yield Found(0, vcon=data)  # whatever is wrong with it, the door has a code for it
        return
    try:
        whole = strict_json(data)
    except (ValueError, RecursionError):
        yield from _lines(data)
        return
    if isinstance(whole, list):
        for place, item in enumerate(whole, 1):
            yield _found(place, item, None)
    else:
        yield _found(0, whole, data)


def strict_json(data: bytes) -> Any:
    """`data` as JSON. Raises `ValueError` for NaN and for a key that stands twice: encoding it again would hide them."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(found)
        if len(read) != len(found):
            raise ValueError("a key stands here twice")
        return read

    def constant(name: str) -> Any:
        raise ValueError("not a JSON number")

    return json.loads(data, object_pairs_hook=pairs, parse_constant=constant)


def _lines(data: bytes) -> Iterator[Found]:
    lines = [(place, line) for place, line in enumerate(data.splitlines(), 1) if line.strip()]
    if len(lines) < 2:
        yield Found(0, code="not-json")
        return
    for place, line in lines:
        try:
            yield _found(place, strict_json(line), line)
        except (ValueError, RecursionError):
            yield Found(place, code="not-json")


def _found(place: int, item: Any, data: bytes | None) -> Found:
    if not isinstance(item, dict):
        return Found(place, code="not-an-object")
    if "specversion" not in item and any(mark in item for mark in VCON_MARKS):
        return Found(place, vcon=data if data is not None else json.dumps(item).encode())
    return Found(place, event=item)


def _results(response: httpx.Response) -> list[tuple[int, str, str]]:
    document = response.json()
    rows = document.get("results", []) if isinstance(document, dict) else document
    found = []
    for row in rows if isinstance(rows, list) else []:
        status = int(row.get("status", 0)) or 500
        inner = row.get("problem")
        found.append((status, *problem_of(inner if isinstance(inner, dict) else row, status)))
    return found


def _problem(response: httpx.Response) -> tuple[str, str]:
    if response.status_code < REFUSED_FROM:
        return "", ""
    try:
        return problem_of(response.json(), response.status_code)
    except ValueError:
        return f"http-{response.status_code}", ""


def _stop_if_nobody_answers(response: httpx.Response) -> None:
    """401, 403, 429 and 5xx say nothing about the document: stop, rather than call thousands of them refused."""
    if response.status_code in (401, 403, 429) or response.status_code >= 500:
        raise Unanswered(f"the service cannot take anything now: {_problem(response)[0]}; what was counted before stands")
