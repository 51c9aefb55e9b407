"""The crash audit in its long form.

    python -m tests.kafka.crash [--faults 30] [--events 100000] [--seed N] [--rate 400]

Prints the seed, each fault as it happens, and a table; exits 1 when anything was lost, doubled, missing or told twice.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.kafka.crash.crew import seed_of
from tests.kafka.crash.faults import Audit, plan
from tests.parts.kafka import Broker
from tests.parts.topics import new_prefix


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kafka.crash", description=__doc__)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=400, help="events a second")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    seed = seed_of(given.seed)
    print(f"seed {seed}", flush=True)
    rng = Random(seed)
    with tempfile.TemporaryDirectory(prefix="consentinel-crash-") as folder, Broker() as broker:
        outcome = Audit(broker, Path(folder), new_prefix(), rng, given.rate).run(plan(rng, given.faults), given.events)
    print(outcome.table())
    for death in outcome.deaths:
        print(death)
    return 0 if outcome.findings.ok and not outcome.deaths else 1


if __name__ == "__main__":
    sys.exit(main())
