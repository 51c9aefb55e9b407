"""`./run bench [embedded|kafka|keys|erasure|decisions]`: prints a table of CPU per event, mostly beside a floor of the same run.

`kafka` runs against `$KAFKA_BOOTSTRAP`, or on a broker of its own. `keys` is what a rotation of keys costs. `erasure` is how long
erasures take, and what a hundred at once cost others. `decisions` is what a verdict costs, by place.
"""

import argparse
import sys

DEFAULT_EVENTS = {"embedded": 20_000, "kafka": 200_000, "restore": 1_000_000, "keys": 100_000, "decisions": 20_000}


def main() -> None:
    """Run the named benchmark."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="embedded", choices=["embedded", "kafka", "keys", "erasure", "decisions"])
    parser.add_argument("--events", type=int, help="events of floor and job, records to restore, or keys")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--consents", type=int, default=60_000, help="kafka: events of the real consent path")
    parser.add_argument("--restore", action="store_true", help="kafka: measure restoring instead")
    parser.add_argument("--failover", action="store_true", help="kafka: measure failing over instead")
    parser.add_argument("--profile", default="", metavar="FILE", help="kafka: write profiles to FILE.job, .unsealed and .sealed")
    parser.add_argument("--people", type=int, default=100, help="erasure: requests at once")
    parser.add_argument("--on", choices=["embedded", "cluster"], help="erasure: measure on this runtime only")
    parser.add_argument("--strict", action="store_true", help="kafka, erasure: exit 1 when a bound is missed")
    args = parser.parse_args()
    if args.what == "erasure":
        from benchmarks import erasure  # noqa: PLC0415 -- as below

        if not erasure.run(args.people, args.on) and args.strict:
            sys.exit(1)
        return
    events = args.events or DEFAULT_EVENTS["restore" if args.restore else args.what]
    # Imported here, so that either one runs without what the other needs.
    if args.what == "embedded":
        from benchmarks import embedded  # noqa: PLC0415

        embedded.run(events, args.rounds)
        return
    if args.what == "keys":
        from benchmarks import keys  # noqa: PLC0415

        keys.run(events, args.rounds)
        return
    if args.what == "decisions":
        from benchmarks import decisions  # noqa: PLC0415

        decisions.run(events, args.rounds)
        return
    from benchmarks import kafka  # noqa: PLC0415

    held = kafka.run(
        events, args.rounds, args.consents, restores=args.restore, failovers=args.failover, profile=args.profile
    )  # fmt: skip
    if args.strict and not held:
        sys.exit(1)


if __name__ == "__main__":
    main()
