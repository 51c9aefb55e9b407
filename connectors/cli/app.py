"""The program `consentinel`: every command of the contract that works today, and no other."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli import evidence, keys, people, retention, topology, watch
from connectors.cli.gateway import add_gateway
from connectors.cli.lag import add_lag
from connectors.cli.law import law
from connectors.cli.law_diff import add_diff
from connectors.cli.output import diagnose, facts_table, rows_table
from connectors.cli.publish import Publisher
from connectors.cli.scan import add_scan
from connectors.cli.session import AnyController, Session, command
from connectors.cli.sim import add_sim
from connectors.cli.up import add_up
from connectors.cli.worker import add_worker

OPTION = re.compile(r"--?[a-z][a-z-]*")
PRINTED_REFUSALS_MAX = 50

app = typer.Typer(
    name="consentinel", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Consent, privacy requests, retention and proof for contact centres.",
)  # fmt: skip
add_up(app)
add_gateway(app)
add_worker(app)
add_scan(app)
add_sim(app)


@command(app, "demo")
def demo(session: Session, folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Of vCons.")] = None) -> None:
    """Run the main job end to end on this machine, and check every claim that is made. Exit code 1: one did not hold."""
    from connectors.cli.demo import run_demo  # noqa: PLC0415 -- no other command needs a whole service

    if not run_demo(folder, session.output):
        raise typer.Exit(1)


@command(app, "publish")
def publish(
    session: Session, path: Annotated[Path, typer.Argument(metavar="FILE|DIR")], controller: AnyController = None
) -> None:  # fmt: skip
    """Publish CloudEvents (JSON, an array, one a line) and vCons. Exit code 1: something was refused."""
    tally = Publisher(session.door(), controller).publish(path)
    document = msgspec.to_builtins(tally)
    counts = {name: value for name, value in document.items() if name != "refusals"}
    tables: list[Any] = [facts_table(counts)]
    if tally.refusals:
        tables.append(rows_table(document["refusals"][:PRINTED_REFUSALS_MAX]))
        if len(tally.refusals) > PRINTED_REFUSALS_MAX:
            tables.append(f"and {len(tally.refusals) - PRINTED_REFUSALS_MAX} more: --output json lists all of them")
    session.show(document, *tables)
    if tally.refused:
        raise typer.Exit(1)


people.add_decide(app)
add_diff(law)
add_lag(app)
for _name, _group in (
    ("consent", people.consent), ("subject", people.subject), ("request", people.request), ("hold", watch.hold),
    ("erase", people.erase), ("breach", watch.breach), ("retention", retention.retention), ("audit", evidence.audit),
    ("quarantine", watch.quarantine), ("topology", topology.topology), ("token", watch.token), ("keys", keys.keys),
    ("law", law),
):  # fmt: skip
    app.add_typer(_group, name=_name)


def run(args: list[str] | None = None) -> int:
    """Run the program on `args` (else the command line's); returns its exit code."""
    try:
        code = app(args, prog_name="consentinel", standalone_mode=False)
    except typer.Exit as done:  # some versions of typer give the code back, others raise
        return int(done.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return 2
    except Exception as wrong:
        if not hasattr(wrong, "format_message"):
            raise
        diagnose(_usage(wrong))
        return 2
    return code if isinstance(code, int) else 0


def _usage(wrong: Any) -> str:
    """What is wrong with the command line, without the values on it: a telephone number may be among them."""
    kind = type(wrong).__name__
    param = getattr(wrong, "param", None)
    if kind == "NoArgsIsHelpError":
        return str(wrong.format_message())
    if kind == "MissingParameter":
        line = str(wrong.format_message()).partition(". ")[0]
    elif param is not None:
        choices = re.search(r" (is not one of [a-z', -]+)\.?$", str(wrong.format_message()))  # these are ours
        line = f"{' / '.join(param.opts)}: not a value that it takes" + (f"; it {choices[1]}" if choices else "")
    elif OPTION.fullmatch(option := str(getattr(wrong, "option_name", ""))):
        line = f"No such option, or it is not used like this: {option}"
    else:
        line = re.split(r"['\"(:]", str(wrong.format_message()))[0].strip()
    return f"consentinel: {line}. --help shows what there is."


def main() -> None:
    """Be the program."""
    sys.exit(run())
