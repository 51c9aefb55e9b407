"""`up` and `gateway`: a process serves; it says `ready URL` once it does, and stops cleanly when told to."""

import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, NamedTuple

from connectors.cli.faults import BadUsage, CliFault, Unanswered
from connectors.cli.media import follower_of, shelves_of
from connectors.cli.output import diagnose
from connectors.cli.session import ADDRESS, Session
from connectors.cli.stopping import LOG_FORMAT, Stopper
from connectors.cli.watch import write_private
from connectors.http.door import Options
from connectors.http.problems import Problem
from connectors.http.server import serve
from connectors.http.tokens import FIRST_NAME, TokenStore, TokensUnusable
from connectors.media import Follower
from engine.deployment import Board
from engine.service import Service

if TYPE_CHECKING:
    from engine.kafka.door import KafkaDoor

TOKENS = "tokens.json"
NAMES_MAX = 1_000
OBEYED_SECS = 0.01
HINT = "nobody could call this service yet: give --token-file FILE, which gets an administrator's token"


class EngineStopped(CliFault):
    """The engine stopped by itself: what is served is not what is true any more."""

    exit_code = 1


def serve_folder(session: Session, data: Path, host: str, port: int) -> None:
    """Serve the deployment in `data` until SIGTERM or SIGINT. Raises `FolderInUse`, `CliFault`s."""
    settings = session.settings
    shelves = shelves_of(settings.media, [data, settings.keys.ring or data.with_name(data.name + ".ring")])

    def opened() -> Served:
        service = Service.open(data, ring=session.ring(data), limits=session.limits(), library=session.library())

        def wait() -> None:
            while not service.loop.obeyed and service.failed is None:
                sleep(OBEYED_SECS)

        return Served(service, wait=wait, media=None if shelves is None else follower_of(shelves, settings.media, service))

    serve_until_told(session, data, host, port, opened)


class Served(NamedTuple):
    """What is served, and what its door shares with others."""

    service: "Service | KafkaDoor"
    board: Board | None = None
    wait: Callable[[], None] = lambda: None  # until it can be started to serve; raises what keeps it from that
    media: Follower | None = None


def serve_until_told(session: Session, data: Path, host: str, port: int, opened: Callable[[], Served]) -> None:
    """Open a deployment and serve it until SIGTERM or SIGINT; `data` holds its tokens and its address. Raises `CliFault`s."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=LOG_FORMAT)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it quotes exceptions; the door logs its own, without values
    stopper = Stopper()
    service, board, wait, media = opened()
    address = data / ADDRESS
    try:
        tokens = _tokens(data, session.given_token_file)
        service.start()
        wait()
        if media is not None:
            media.start()

        def ready(url: str) -> None:
            write_private(address, json.dumps({"url": url}) + "\n")
            print(f"ready {url}", flush=True)
            if stopper.told:
                signal.raise_signal(signal.SIGTERM)  # it came just before the server took over: tell it again

        options = Options(session.settings.freshness_secs)
        if not stopper.told and not serve(service, tokens, host, port, ready, options, board):
            raise Unanswered("it cannot listen there: the port is taken, or the address is not this machine's")
    finally:
        address.unlink(missing_ok=True)
        if media is not None:
            media.stop()
        service.stop()
    if service.failed is not None:
        raise EngineStopped("the engine stopped by itself; its log says why")


def _tokens(data: Path, file: Path | None) -> TokenStore:
    """The token store, with at least one administrator who knows the secret."""
    try:
        store = TokenStore.open(data / TOKENS)
    except TokensUnusable as fault:
        raise Unanswered(str(fault)) from None
    if file is not None:
        if not _holds_valid(store, file):
            if _holds_something_else(file):
                raise BadUsage("the token file exists and holds no token: name another one")
            write_private(file, _administrator(store) + "\n")
        return store
    secret = store.first_token()
    if secret is not None and not sys.stdout.isatty():
        store.revoke(FIRST_NAME)  # a secret in somebody's log file is no secret
        raise BadUsage(HINT)
    if secret is not None:
        diagnose("The administrator's token, shown this once:")
        print(secret, flush=True)
    return store


def _holds_something_else(file: Path) -> bool:
    """Whether `file` is somebody's: it is there, not empty, and does not begin as a token does."""
    try:
        found = file.read_bytes()
    except OSError:
        return False
    return bool(found.strip()) and not found.startswith(b"cst_")


def _holds_valid(store: TokenStore, file: Path) -> bool:
    """Whether `file` holds a token of this store already, as after a restart."""
    try:
        return "administrator" in store.authenticate(f"Bearer {file.read_text(encoding='utf-8').strip()}").roles
    except (OSError, UnicodeDecodeError, Problem):
        return False


def _administrator(store: TokenStore) -> str:
    """A new administrator's secret: under the first free name, because the old one's holders keep theirs."""
    for number in range(1, NAMES_MAX):
        try:
            return store.create(FIRST_NAME if number == 1 else f"{FIRST_NAME}-{number}", ("administrator",), ("*",), ("*",))
        except Problem as taken:
            if taken.code != "name-taken":
                raise Unanswered("no token can be made") from None
    raise Unanswered("there are too many administrators' tokens")
