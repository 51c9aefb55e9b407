"""The command `sim`: the cluster engine under a seeded story of faults, with an independent auditor at its end."""

from typing import Annotated, Any

import typer

from connectors.cli.faults import BadUsage
from connectors.cli.output import facts_table
from connectors.cli.session import Session, command

SEEDS_MAX = 1_000_000
EVENTS_MAX = 10_000
TRACE_LINES_MAX = 2_000  # the end of a story is where it went wrong


def add_sim(app: typer.Typer) -> None:
    """Add `sim`."""
    command(app, "sim")(sim)


def sim(
    session: Session,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The story; the same number tells the same one.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=SEEDS_MAX, help="How many stories, from --seed on.")] = 1,
    bug: Annotated[str | None, typer.Option("--bug", help="Plant a known engine bug, to see it found.")] = None,
    events: Annotated[int, typer.Option("--events", min=1, max=EVENTS_MAX, help="Events published in a story.")] = 30,
) -> None:
    """Run the cluster engine on a simulated Kafka, through crashes, zombies and rebalances. Exit code 1: something was found."""
    from engine.simulation.bugs import BUGS  # noqa: PLC0415 -- no other command needs a whole cluster
    from engine.simulation.stories import bug_named, stories  # noqa: PLC0415

    if bug is not None and bug not in BUGS:
        raise BadUsage(f"no such planted bug; there are {', '.join(BUGS)}")
    told = faults = 0
    for outcome in stories(seed, seeds, bug_named(bug), events):
        told, faults = told + 1, faults + outcome.blows
        if outcome.finding:
            trace = list(outcome.trace[-TRACE_LINES_MAX:])
            document: dict[str, Any] = {
                "ok": False, "seeds": told, "faults": faults,
                "seed": outcome.seed, "job": outcome.job, "finding": outcome.finding,
            }  # fmt: skip
            session.show({**document, "trace": trace}, *trace, facts_table(document))
            raise typer.Exit(1)
    document = {"ok": True, "seeds": told, "faults": faults}
    session.show(document, facts_table(document))
