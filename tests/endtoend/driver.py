"""A service in a process of its own, to be killed: publishes the batches it reads and says which are durable.

    python -m tests.endtoend.driver FOLDER

Each line of standard input is a JSON array: the batch's number, then its events as (type, id, time in ms, key, data). After
`Service.publish` has returned, `ok N` is written. At the end of its input it folds what is there, stops and says `done`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from engine.service import Service
from schemas.routed import Envelope
from tests.endtoend.world import topic_of

CONTROLLER, SOURCE = "acme", "test"
SETTLE_SECS_MAX = 60.0


def wrapped(type_: str, id_: str, time_ms: int, data: Any) -> Envelope:
    return Envelope(
        id=id_, source=SOURCE, type=type_, controller=CONTROLLER, time_ms=time_ms, receipt_ms=time.time_ns() // 1_000_000,
        actor="driver", content_type="application/json", data=msgspec.json.encode(data),
    )  # fmt: skip


def main(folder: Path) -> None:
    service = Service.open(folder)
    service.start()
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        number, events = msgspec.json.decode(line)
        service.publish([(topic_of(type_), key, wrapped(type_, id_, at, data)) for type_, id_, at, key, data in events])
        assert service.failed is None, service.failed
        print(f"ok {number}", flush=True)
    until = time.monotonic() + SETTLE_SECS_MAX
    while any(service.loop.lag().values()) and time.monotonic() < until:
        time.sleep(0.05)
    service.stop()
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
