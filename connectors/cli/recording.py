"""Puts the result of a scan on record with a request, so that its receipt holds it; and checks a report against a receipt."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from connectors.cli.client import Door
from connectors.cli.faults import Refused, Unanswered
from engine.receipt_summary import SCANNED
from engine.receipts import Receipt
from engine.scan.report import Report, digest_of

REPORT_BYTES_MAX = 64 << 20


class Record:
    """The record of one request at a running service. Asked first, so that no scan is made for a request that is not there."""

    def __init__(self, door: Door, request_id: str) -> None:
        """Raises `Refused`, `Unanswered`."""
        self._door, self._request_id = door, request_id
        self._controller = str(door.get(f"/v1/requests/{quote(request_id, safe='')}")["controller"])

    def put(self, report: Report) -> None:
        """Send what a report says as an event of the request. Raises `Refused`, `Unanswered`."""
        self._door.event(SCANNED, self._controller, {"request_id": self._request_id, **told(report)})


def told(report: Report) -> dict[str, Any]:
    """What of a report goes on record: counts, codes and digests, no value and no place's name."""
    controlled = [needle.control for needle in report.needles if needle.control is not None]
    return {
        "verdict": report.verdict, "digest": report.digest, "needles": len(report.needles),
        "scanned_at": datetime.fromtimestamp(report.at_ms / 1_000, UTC).isoformat(timespec="seconds"),
        "found": sum(needle.outside > 0 for needle in report.needles), "sources": sorted(set(report.sources)),
        "control": report.control, "controlled": sum(controlled) if report.control else None, "epochs": report.epochs,
    }  # fmt: skip


def read_report(file: Path) -> Report:
    """A report that `scan --output json` printed, unchanged. Raises `Unanswered`, `Refused`."""
    try:
        data = file.read_bytes()
        report = msgspec.json.decode(data, type=Report) if len(data) <= REPORT_BYTES_MAX else None
    except (OSError, msgspec.DecodeError):
        report = None
    if report is None:
        raise Unanswered("the report cannot be read, or is none")
    if report.digest != digest_of(report):
        raise Refused("the report is not what was printed: its digest is another one", "digest-differs")
    return report


def on_record(receipt: Receipt, report: Report) -> None:
    """Check that a receipt holds this very report, and what it says. Raises `Refused`."""
    wanted = {name: value for name, value in told(report).items() if value is not None}
    wanted |= {"sources": "+".join(wanted["sources"])}
    for entry in receipt.entries:
        if entry.kind == SCANNED and all(entry.facts.get(name) == str(value) for name, value in wanted.items()):
            return
    raise Refused("the receipt holds no scan with this report", "scan-differs")
