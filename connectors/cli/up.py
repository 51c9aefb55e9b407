"""The command `up`: where to serve what. The serving itself is `serving.py`, which no other command has to load."""

from pathlib import Path
from typing import Annotated

import typer

from connectors.cli.session import DATA, Session, command


def add_up(app: typer.Typer) -> None:
    """Add `up`."""
    command(app, "up")(up)


def up(
    session: Session,
    data: Annotated[Path, typer.Option("--data", help="Data folder; begun when it is not there.")] = DATA,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="0 picks a free one.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
) -> None:
    """Serve. Here --token-file names the file that gets an administrator's token (mode 0600)."""
    from connectors.cli.serving import serve_folder  # noqa: PLC0415 -- a web framework would slow every other command down

    http = session.settings.http
    serve_folder(session, data, host or http.host, http.port if port is None else port)
