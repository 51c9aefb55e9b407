"""`./run bench [embedded] [--events N] [--rounds N]`: prints a table of CPU per event and its ratio to the floor."""

import argparse

from benchmarks import embedded


def main() -> None:
    """Run the named benchmark."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="embedded", choices=["embedded"])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    embedded.run(args.events, args.rounds)


if __name__ == "__main__":
    main()
