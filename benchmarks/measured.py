"""One measured run in a process of its own, so that the CPU of every thread counts and nothing is warm from the run before.

`python -m benchmarks.measured {job,consents} …` prints one line `RESULT {json}`. `worker` runs the job until it is
ended and prints `OWNS n` whenever it has another number of units.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import consents, job
from benchmarks.cluster import JobNames, job_runtime
from benchmarks.meter import Meter, sampled
from engine.clock import system_clock
from engine.service import tune_interpreter

IDLE_SECS = 0.002
STALL_SECS_MAX = 60.0


def run_job(args: argparse.Namespace) -> dict[str, Any]:
    """The job over `args.events` events, from its first one to the last commit: the floor's clock starts and ends there too."""
    runtime = job_runtime(args.bootstrap, JobNames(args.prefix, args.input), args.folder, args.worker)
    meters: list[Meter] = []
    deadline = monotonic() + STALL_SECS_MAX
    with sampled(bool(args.profile)) as sampler:

        def begun() -> None:
            meters.append(Meter())
            if sampler is not None:
                sampler.clear()

        worked = job.Job(runtime, system_clock, begun)
        tune_interpreter()
        while worked.done < args.events:
            if worked.turn():
                deadline = monotonic() + STALL_SECS_MAX
            else:
                assert monotonic() < deadline, "the events stopped coming"
                runtime.wait(IDLE_SECS)
        found = meters[0].stop(worked.done)
    found["turns"] = worked.turns
    if sampler is not None:
        Path(args.profile).write_text(sampler.report(found["cpu_us"]))
    runtime.close()
    return found


def run_worker(args: argparse.Namespace) -> None:
    """The job for ever."""
    runtime = job_runtime(args.bootstrap, JobNames(args.prefix, args.input), args.folder, args.worker)
    worked = job.Job(runtime, system_clock)
    tune_interpreter()
    owned = -1
    while True:
        if not worked.turn():
            runtime.wait(job.WAIT_SECS)
        if (count := len(runtime.owned(job.TASK))) != owned:
            owned = count
            print(f"OWNS {owned}", flush=True)


def main(arguments: list[str]) -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured", description=__doc__)
    parser.add_argument("what", choices=["job", "consents", "worker"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--input", default="")
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--worker", default="w1")
    parser.add_argument("--unsealed", action="store_true")
    parser.add_argument("--profile", default="")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    if args.what == "worker":
        run_worker(args)
    found = run_job(args) if args.what == "job" else consents.run(args)
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
