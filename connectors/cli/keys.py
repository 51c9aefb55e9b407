"""Commands about key-encryption keys: status, rotate. They work on a running service, or on a stopped one's folder."""

from time import monotonic, sleep
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli.client import Door
from connectors.cli.faults import Refused
from connectors.cli.output import diagnose, facts_table, rows_of, rows_table
from connectors.cli.session import AnyController, Controller, Data, Session, command
from engine.rotation import NothingToRotate

LOOK_SECS = 0.5
OPERATOR = "operator"  # who rotates on a stopped folder is whoever may read it
GOING_ON = "The rotation goes on in the background: `keys status` shows how far it is."

keys = typer.Typer(no_args_is_help=True, help="Key-encryption keys and their rotation.")

Background = Annotated[bool, typer.Option("--background", help="Begin it and return at once.")]
Wait = Annotated[float, typer.Option("--wait-secs", min=0, help="How long to wait for its end.")]


@command(keys, "status")
def keys_status(session: Session, controller: AnyController = None, data: Data = None) -> None:
    """Show key-encryption keys per controller, and how far the newest rotation has come."""
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            found = msgspec.to_builtins(service.keys(controller), str_keys=True)
        finally:
            service.stop()
    else:
        found = rows_of(session.door(data).get("/v1/keys", controller=controller), "keys")
    session.show({"keys": found}, *_tables(found))


@command(keys, "rotate")
def keys_rotate(
    session: Session, controller: Controller, data: Data = None, background: Background = False, wait_secs: Wait = 600.0
) -> None:  # fmt: skip
    """Rotate a controller's key-encryption keys, or resume a rotation. Afterwards no copy of a wrapped key from before opens.

    Exit code 1: it had not ended after --wait-secs; it goes on by itself.
    """
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            service.rotate_keys(controller, OPERATOR)
            service.settle()  # does a rotation to its end: this process owns everything there is
            found = msgspec.to_builtins(service.keys(controller), str_keys=True)
        except NothingToRotate:
            raise Refused("the controller has no keys here", "not-found") from None
        finally:
            service.stop()
    else:
        door = session.door(data)
        found = rows_of(door.post("/v1/keys/rotations", {"controller": controller}), "keys")
        if not background:
            found = _waited(door, controller, found, wait_secs)
    session.show({"keys": found}, *_tables(found))
    if not _ended(found):
        diagnose(GOING_ON)
        if not background:
            raise typer.Exit(1)


def _waited(door: Door, controller: str, found: list[dict[str, Any]], wait_secs: float) -> list[dict[str, Any]]:
    give_up, told = monotonic() + wait_secs, ""
    while not _ended(found) and monotonic() < give_up:
        line = _progress(found)
        if line != told:
            diagnose(told := line)
        sleep(LOOK_SECS)
        found = rows_of(door.get("/v1/keys", controller=controller), "keys")
    return found


def _ended(found: list[dict[str, Any]]) -> bool:
    return all((row.get("rotation") or {}).get("phase") == "ended" for row in found)


def _progress(found: list[dict[str, Any]]) -> str:
    rotation: dict[str, Any] = next((row["rotation"] for row in found if row.get("rotation")), {})
    return (
        f"{rotation.get('phase', '')}: {rotation.get('shards_rotated')} of {rotation.get('shards')} shards rotated, "
        f"{rotation.get('keys_rewrapped')} keys re-wrapped, {rotation.get('owners_acknowledged')} of {rotation.get('owners')} "
        f"owners acknowledged, {rotation.get('epochs_destroyed')} of {rotation.get('epochs_to_destroy')} epochs destroyed"
    )


def _tables(found: list[dict[str, Any]]) -> list[Any]:
    if not found:
        return ["No controller has keys here yet."]
    shown = [{name: value for name, value in row.items() if name != "rotation"} for row in found]
    rotations = [{"controller": row["controller"], **row["rotation"]} for row in found if row.get("rotation")]
    return [rows_table(shown), *(facts_table(rotation) for rotation in rotations)]
