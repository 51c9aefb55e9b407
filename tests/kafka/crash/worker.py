"""A worker process of the crash audit.

    python -m tests.kafka.crash.worker FOLDER NAME CONNECTION

CONNECTION is the JSON of a `Connection`. It prints `ready` when everything that it was given is restored, and `done` when it has
ended after SIGTERM. A file `order` in FOLDER says what it shall do to itself, once, before a step of its next transaction of a
kind: "kill 6 records" or "stop 5 alarms" (what it does it prints before). `owned` in FOLDER lists the units that it has. At
SIGUSR1 it prints where it stands.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from engine.kafka.connection import Connection
from tests.kafka.crash.job import Loop, open_runtime

INTERVAL_SECS = 0.05
IDLE_SECS = 0.02
TELL_SECS = 0.5
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def main(folder: Path, name: str, connection: Connection) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    faulthandler.register(signal.SIGUSR1)
    runtime = open_runtime(connection, folder / "stores", name)
    loop = Loop(runtime)
    order = folder / "order"

    def step(number: int) -> None:
        if not order.exists():
            return
        what, at, kind = order.read_text().split()
        if number == int(at) and kind == loop.doing:
            order.unlink()
            print(f"{what} before step {number} of {kind}", flush=True)
            os.kill(os.getpid(), SIGNALS[what])

    runtime.transactor.step = step
    was_ready, told = False, 0.0
    while not stopping:
        handled = loop.turn()
        if runtime.ready and not was_ready:
            was_ready = True
            print("ready", flush=True)
        if time.monotonic() - told > TELL_SECS:
            told = time.monotonic()
            owned = {task: list(runtime.owned(task)) for task in ("relay", "count")}
            draft = folder / "owned.draft"
            draft.write_text(json.dumps({"units": owned, "lost": loop.lost, "restored": runtime.recovery.restored}))
            draft.rename(folder / "owned")
        if handled:
            time.sleep(INTERVAL_SECS)
        else:
            runtime.wait(IDLE_SECS)
    runtime.close()
    # While an interpreter goes, handlers are the system's again, and a second SIGTERM would be its code; ignoring outlasts that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"done: {runtime.transactor.count} transactions, lost {runtime.transactor.aborts}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s %(message)s")
    main(Path(sys.argv[1]), sys.argv[2], msgspec.json.decode(sys.argv[3], type=Connection))
