"""What every command has at hand: settings, the running service, its output; and one way in which commands end."""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connectors.cli.client import Door
from connectors.cli.faults import BadUsage, CliFault, Refused, Unanswered
from connectors.cli.output import Format, diagnose, rows_of, show
from connectors.cli.settings import Settings, load_settings
from engine.keyring import OpenRing, RingFault
from engine.runtime import FolderInUse, RuntimeFault
from engine.service import Limits, Service
from law.book import SHIPPED, Library, shipped_library
from law.reading import PackRefused
from law.signing import RELEASE_KEY, read_folder

if TYPE_CHECKING:
    from connectors.registry import Registry

DATA = Path("data")
STORE = "consentinel.db"  # without it a folder holds no deployment, and looking at one must not begin one
ADDRESS = "service.json"  # `up` writes it into its data folder, for commands that find the folder in use
KINDS = ("tel", "email", "ip", "crm", "device", "social", "employee")

Output = Annotated[Format, typer.Option("--output", help="A table, or one JSON document on standard output.")]
Url = Annotated[str | None, typer.Option("--url", help="The running service; else CONSENTINEL_URL.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File with a token; else CONSENTINEL_TOKEN_FILE.")]

Controller = Annotated[str, typer.Option("--controller", help="The company on whose behalf the data is processed.")]
AnyController = Annotated[str | None, typer.Option("--controller", help="One controller only.")]
Identifiers = Annotated[list[str] | None, typer.Option("--identifier", help="kind:value, e.g. tel:+12025550123; repeatable.")]
Conversations = Annotated[list[str] | None, typer.Option("--conversation", help="Conversation id; repeatable.")]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder of a stopped service.")]


class Session:
    """One run of a command."""

    def __init__(self, output: Format, url: str | None = None, token_file: Path | None = None) -> None:
        self.output = output
        self.given_token_file = token_file  # `up` writes this file, and must never write one that only a variable names
        self._open = ExitStack()
        self.settings: Settings = load_settings()
        if url is not None:
            self.settings.url = url
        if token_file is not None:
            self.settings.token, self.settings.token_file = None, token_file

    def door(self, data: Path | None = None) -> Door:
        """The running service: the one that owns `data`, or the one that settings name, or the default folder's."""
        url = None if data is not None else self.settings.url
        if url is None:
            http = self.settings.http
            url = address_of(data or DATA) or (None if data is not None else f"http://{http.host}:{http.port}")
        if url is None:
            raise Unanswered("the folder is in use, but its service says no address: give --url instead of --data")
        return self._open.enter_context(closing(Door(url, self.settings.bearer())))

    def stopped(self, data: Path) -> Service | None:
        """The deployment in `data`, opened but not started; None when a running service has it."""
        if not (data / STORE).is_file():
            raise Unanswered("there is no deployment in that data folder")
        try:
            return Service.open(data, ring=self.ring(data), limits=self.limits(), library=self.library())
        except FolderInUse:
            return None

    def ring(self, data: Path) -> OpenRing:
        """How the key ring that the settings name is opened."""
        from connectors.cli.rings import ring_of  # noqa: PLC0415 -- few commands need it

        return functools.partial(ring_of, self.settings.keys, data)

    def library(self, *, wrap: bool = True) -> Library:
        """The law packs: the shipped ones, and the operator's own. Raises `Unanswered`, or (not `wrap`) `PackRefused`."""
        own = self.settings.law
        try:
            if own.folder is None:
                return shipped_library()
            if not own.folder.is_dir():
                raise Unanswered("law.folder: there is no such folder")
            return Library(read_folder(SHIPPED, [RELEASE_KEY]), read_folder(own.folder, own.keys))
        except PackRefused as refused:
            if not wrap:
                raise
            raise Unanswered(f"a law pack is refused: {refused}") from None
        except ValueError:
            raise BadUsage("law.keys: one of them is no verifier key, as `law key` shows it") from None

    def limits(self) -> Limits:
        """What the settings allow the engine."""
        return Limits(raw_retention_secs=self.settings.raw.retention_secs)

    def registry(self) -> "Registry | None":
        """The schema registry, where settings name one. Raises `BadUsage`."""
        from connectors.registry import Registry, RegistryImpossible  # noqa: PLC0415 -- few commands need it

        settings = self.settings.kafka
        if settings.registry_url is None:
            return None
        try:
            return Registry(settings.registry_url.get_secret_value(), ca_file=settings.registry_ca_file)
        except RegistryImpossible as wrong:
            raise BadUsage(str(wrong)) from None

    def close(self) -> None:
        """Let go of the connections."""
        self._open.close()

    def show(self, document: Any, *tables: Any) -> None:
        """Print the result."""
        show(document, self.output, *tables)


def address_of(data: Path) -> str | None:
    """The URL that the service in `data` wrote down, if any. A killed one leaves its own behind."""
    try:
        return str(json.loads((data / ADDRESS).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command whose first argument is its `Session`; the options that all commands share are added here, once."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=Format.TABLE, annotation=Output),
            inspect.Parameter("url", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Url),
            inspect.Parameter("token_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=TokenFile),
        ]
        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

        @functools.wraps(function)
        def run(output: Format, url: str | None, token_file: Path | None, **given: Any) -> None:
            def work() -> None:
                with closing(Session(output, url, token_file)) as session:
                    function(session, **given)

            with_faults(work)

        signature = inspect.Signature([*keywords, *shared])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        del run.__wrapped__  # typer would look behind the signature
        app.command(name)(run)
        return run

    return register


def with_faults(body: Callable[[], None]) -> None:
    """Run `body`; what goes wrong becomes one line on standard error and an exit code."""
    try:
        body()
    except CliFault as fault:
        diagnose(f"consentinel: {fault}")
        raise typer.Exit(fault.exit_code) from None
    except FolderInUse:
        diagnose("consentinel: the data folder is in use by another consentinel process")
        raise typer.Exit(2) from None
    except (RingFault, RuntimeFault) as fault:
        diagnose(f"consentinel: {type(fault).__name__}: {fault}")  # their texts are constants of the engine
        raise typer.Exit(2) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nobody to tell
        raise typer.Exit(2) from None
    except (typer.Exit, KeyboardInterrupt):
        raise
    except Exception as bug:
        if os.environ.get("CONSENTINEL_DEBUG"):
            raise
        # The text of an unforeseen error may hold a value, so only its type is told.
        diagnose(f"consentinel: unexpected {type(bug).__name__}; CONSENTINEL_DEBUG=1 shows where")
        raise typer.Exit(2) from None


def identifiers_of(given: Iterable[str] | None, *, needed: bool = True) -> list[dict[str, str]]:
    """`kind:value` options as identifiers of the contract. Raises `BadUsage`, which does not repeat them."""
    found = []
    for place, text in enumerate(given or (), 1):
        kind, colon, value = text.partition(":")
        if not colon or kind not in KINDS or not value.strip():
            raise BadUsage(f"--identifier number {place} is not kind:value with a kind of {', '.join(KINDS)}")
        found.append({"kind": kind, "value": value})
    if needed and not found:
        raise BadUsage("give at least one --identifier kind:value")
    return found


def scope_of(conversations: list[str] | None, identifiers: list[str] | None, *, needed: bool = True) -> dict[str, Any] | None:
    """The `scope` of a hold or an incident. Raises `BadUsage` when it is needed and nothing is in it."""
    scope: dict[str, Any] = {}
    if conversations:
        scope["conversation_ids"] = conversations
    if identifiers:
        scope["identifiers"] = identifiers_of(identifiers)
    if needed and not scope:
        raise BadUsage("give at least one --conversation or --identifier")
    return scope or None


def pick(rows: Any, what: str, value: str, *names: str) -> dict[str, Any]:
    """The record whose `what` is `value`. Raises `Refused` when there is none."""
    for row in rows_of(rows, *names):
        if str(row.get(what)) == value:
            return row
    raise Refused("not found", "not-found")
