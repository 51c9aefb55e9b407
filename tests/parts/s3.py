"""A real S3 store for tests: versitygw (Apache-2.0) on a folder of its own, with versions, delete markers, locks and users.

    with S3Server() as store:
        store.endpoint               # "http://127.0.0.1:27070"
        store.client()               # the library's client, as the store's owner
        store.restart(kill=True)     # the same port and data

Go builds it once, from the module proxy, into the cache; the file system of the temporary folder must keep `user.*` attributes.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
from botocore.config import Config

from tests.parts.process import SCRATCH, Child, PartMissing, free_ports

VERSION = "1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@v{VERSION}"
BUILD_SECS_MAX = 1_800  # some 100 modules on a slow machine, once
START_SECS_MAX = 30
OWNER, OWNERS_SECRET = "owner", "a secret of the tests"


def cached() -> Path:
    """Where the program is once it has been built."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "consentinel" / f"versitygw-{VERSION}" / "versitygw"


def program() -> Path:
    """The program; Go builds it the first time. Raises PartMissing when it cannot be had."""
    found = cached()
    if found.is_file():
        return found
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise PartMissing("Go was not found, and versitygw has not been built yet")
    found.parent.parent.mkdir(parents=True, exist_ok=True)
    with found.parent.with_name(f"{found.parent.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process builds; the others wait for it
        if not found.is_file():
            _build(go, found)
    return found


def _build(go: str, found: Path) -> None:
    with tempfile.TemporaryDirectory(dir=found.parent.parent) as work:
        env = {**os.environ, "GOBIN": f"{work}/bin", "GOFLAGS": "-buildvcs=false"}
        build = [go, "install", MODULE]
        done = subprocess.run(build, capture_output=True, text=True, timeout=BUILD_SECS_MAX, env=env, check=False)
        if done.returncode:
            raise PartMissing(f"Go could not build versitygw:\n{done.stderr[-3000:]}")
        (Path(work) / "bin").rename(found.parent)  # atomic, so nobody ever sees half a program


class S3Server:
    """One store on a free port of the loopback; its data is gone after `stop`."""

    def __init__(self) -> None:
        self.port = 0
        self.folder: Path | None = None
        self._child: Child | None = None
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """The owner's client."""
        self._client = self._client or boto3.session.Session().client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=OWNER,
            aws_secret_access_key=OWNERS_SECRET, config=Config(proxies={}, s3={"addressing_style": "path"}),
        )  # fmt: skip
        return self._client

    def start(self) -> Self:
        """Start it; after `stop(keep=True)` on the port and data it had."""
        command = [str(program())]
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}s3-"))
            for name in ("objects", "versions", "users"):
                (self.folder / name).mkdir()
            (self.port,) = free_ports(1)
        command += ["--port", f"127.0.0.1:{self.port}", "--access", OWNER, "--secret", OWNERS_SECRET, "--quiet"]
        command += ["--iam-dir", str(self.folder / "users"), "posix", "--versioning-dir", str(self.folder / "versions")]
        child = Child([*command, str(self.folder / "objects")], self.folder, self.folder / "s3.log", scratch=True)
        child.wait_until(self._answers, START_SECS_MAX)
        self._child = child
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return link.recv(64).startswith(b"HTTP/")
        except OSError:
            return False

    def add_user(self, access: str, secret: str) -> None:
        """Add a user, who may do nothing until a bucket's policy says so."""
        command = [str(program()), "admin", "--access", OWNER, "--secret", OWNERS_SECRET, "--endpoint-url", self.endpoint]
        command += ["create-user", "--access", access, "--secret", secret, "--role", "user"]
        subprocess.run(command, capture_output=True, timeout=START_SECS_MAX, check=True)

    def restart(self, *, kill: bool = False) -> None:
        """SIGTERM (or SIGKILL) and up again on the same port and data."""
        self.stop(kill=kill, keep=True)
        self.start()

    def stop(self, *, kill: bool = False, keep: bool = False) -> None:
        """End it. `keep`: leave port and data for another `start`."""
        if self._child is not None:
            self._child.stop(kill=kill)
            self._child = None
        if not keep and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop(kill=True)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """A store that answers, shared by the tests of a file: each uses a bucket of its own."""
    try:
        server = S3Server().start()
    except PartMissing as fault:
        pytest.skip(f"NOT RUN: needs an S3 store: {fault}")  # loud and counted: not every machine can build one
    yield server
    server.stop(kill=True)
