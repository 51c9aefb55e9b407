"""Commands on the topology: check it, draw it, and make the cluster's topics and rights what it says."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import rows_table
from connectors.cli.session import Session, command
from engine.drawing import draw
from engine.topology import SHIPPED, Topology, TopologyInvalid, load_topology
from processors.registry import processors
from schemas.labels import known_schemas

if TYPE_CHECKING:
    from engine.kafka.acls import AclStep
    from engine.kafka.plan import Plan

topology = typer.Typer(no_args_is_help=True, help="The declared topics, tasks and processors.")

DECIDER = "decide_use"  # the one processor that no task runs: the doors call it
DRIFT = 2  # exit code of a plan that differs

File = Annotated[Path, typer.Argument(metavar="[FILE]")]
Kafka = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT", help="The cluster; else CONSENTINEL_KAFKA__BOOTSTRAP.")
]
AllowDelete = Annotated[
    bool, typer.Option("--allow-delete", help="Also delete what the topology does not know, and make empty topics anew.")
]
Acls = Annotated[bool, typer.Option("--acls", help="Rights instead of topics.")]
Registry = Annotated[bool, typer.Option("--registry", help="Schemas in the registry instead of topics.")]
Principals = Annotated[
    list[str] | None,
    typer.Option("--principal", metavar="ROLE=User:NAME", help="Whose rights a role's are; repeatable; else kafka.principals."),
]


class Form(StrEnum):
    """For whom a topology is drawn."""

    MERMAID = "mermaid"
    DOT = "dot"


@command(topology, "check")
def topology_check(session: Session, file: File = SHIPPED) -> None:
    """Check a topology against every rule. Exit code 1: it breaks some."""
    try:
        found = _read(file)
    except TopologyInvalid as wrong:
        rows = [{"code": fault.code, "where": fault.where, "message": fault.message} for fault in wrong.faults]
        if any(row["code"] == "file-unreadable" for row in rows):
            raise Unanswered("the topology file cannot be read") from None
        session.show({"ok": False, "faults": rows}, rows_table(rows))
        raise typer.Exit(1) from None
    counts = {"topics": len(found.topics), "tasks": len(found.tasks), "processors": len(found.processors)}
    counts["consumers"] = len(found.consumers)
    session.show({"ok": True, "faults": [], **counts})


@command(topology, "draw")
def topology_draw(
    session: Session, file: File = SHIPPED,
    form: Annotated[Form, typer.Option("--format", help="Mermaid, or Graphviz.")] = Form.MERMAID,
) -> None:  # fmt: skip
    """Draw a topology as text: `topology draw --format dot | dot -Tsvg`."""
    text = draw(_sound(file), form.value)
    session.show({"format": form.value, "text": text}, text.rstrip("\n"))


@command(topology, "plan")
def topology_plan(
    session: Session, file: File = SHIPPED, kafka: Kafka = None, allow_delete: AllowDelete = False, acls: Acls = False,
    principal: Principals = None, registry: Registry = False,
) -> None:  # fmt: skip
    """Show what would change on the cluster, and change nothing. Exit code 2: something differs."""
    from engine.kafka.acls import plan_acls  # noqa: PLC0415 -- no other command needs a client of Kafka
    from engine.kafka.plan import make_plan  # noqa: PLC0415

    if registry:
        if not _registry(session, _sound(file), apply=False):
            raise typer.Exit(DRIFT)
        return
    found, connection = _sound(file), session.settings.kafka.connection(kafka)
    if acls:
        steps = plan_acls(connection, found, _principals(session, principal), revoke=allow_delete)
        _show_acls(session, steps)
        differs = any(step.action != "excess" for step in steps)
    else:
        plan = make_plan(connection, found, allow_delete=allow_delete)
        _show_plan(session, plan)
        differs = plan.drift
    if differs:
        raise typer.Exit(DRIFT)


@command(topology, "apply")
def topology_apply(
    session: Session, file: File = SHIPPED, kafka: Kafka = None, allow_delete: AllowDelete = False, acls: Acls = False,
    principal: Principals = None, registry: Registry = False,
) -> None:  # fmt: skip
    """Make the cluster what the topology says, and show what was done. Exit code 1: a step is blocked, and nothing was done."""
    from engine.kafka.acls import apply_acls  # noqa: PLC0415 -- no other command needs a client of Kafka
    from engine.kafka.plan import apply_plan  # noqa: PLC0415

    if registry:
        if not _registry(session, _sound(file), apply=True):
            raise Refused("the registry does not take every schema: what stands there is not compatible with it")
        return
    found, connection = _sound(file), session.settings.kafka.connection(kafka)
    if acls:
        _show_acls(session, apply_acls(connection, found, _principals(session, principal), revoke=allow_delete))
        return
    plan = apply_plan(connection, found, allow_delete=allow_delete)
    _show_plan(session, plan, applied=not plan.blocked)
    if plan.blocked:
        raise Refused("nothing was changed: blocked steps stand in the plan, with their reasons")


def _read(file: Path) -> Topology:
    return load_topology(file, known_schemas(), {*processors(), DECIDER})


def _sound(file: Path) -> Topology:
    """The topology, which must have no fault. Raises `Refused`."""
    try:
        return _read(file)
    except TopologyInvalid:
        raise Refused("the topology has faults: `consentinel topology check` lists them") from None


def _principals(session: Session, given: Sequence[str] | None) -> dict[str, str]:
    """Principals by role: the options', else the settings'. Raises `BadUsage`."""
    if not given:
        return session.settings.kafka.principals
    found = dict(text.partition("=")[::2] for text in given)
    if len(found) != len(given) or not all(found.values()):
        raise BadUsage("--principal is ROLE=User:NAME, once for each role")
    return found


def _registry(session: Session, found: Topology, *, apply: bool) -> bool:
    """Show how our schemas stand in the registry, and register them if told to; whether all of them are there then."""
    from connectors.registry.subjects import look, register  # noqa: PLC0415 -- no other command needs it

    client = session.registry()
    if client is None:
        raise BadUsage("no schema registry is named: set CONSENTINEL_KAFKA__REGISTRY_URL")
    try:
        standing = look(client, found)
        if apply:
            standing = register(client, standing)
    finally:
        client.close()
    rows = [{"subject": one.subject, "standing": one.standing} for one in standing]
    session.show({"subjects": rows}, rows_table(rows))
    return all(one.standing == "registered" for one in standing)


def _show_plan(session: Session, plan: "Plan", *, applied: bool = False) -> None:
    steps: list[dict[str, Any]] = [msgspec.to_builtins(step) | {"why": step.why} for step in plan.steps]
    document = {"prefix": plan.prefix, "brokers": plan.brokers, "drift": plan.drift, "applied": applied, "steps": steps}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for step in steps:  # a new topic is one row, with all that it is given
        if step["action"] == "create":
            row = rows.setdefault((step["action"], step["topic"]), {**step, "setting": "", "old": "", "new": ""})
            row["new"] += f"{step['setting']}={step['new']}\n"
        else:
            rows[step["action"], f"{step['topic']} {step['setting']}"] = step
    shown = [{name: row[name] for name in ("action", "topic", "setting", "old", "new", "why")} for row in rows.values()]
    session.show(document, rows_table(shown) if shown else "nothing differs")


def _show_acls(session: Session, steps: "list[AclStep]") -> None:
    rows = [msgspec.to_builtins(step) for step in steps]
    differs = any(step.action != "excess" for step in steps)
    session.show({"drift": differs, "steps": rows}, rows_table(rows) if rows else "nothing differs")
