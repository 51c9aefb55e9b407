"""Whole deployments for benchmarks, as processes: the embedded service, or a worker and a gateway on Kafka and Redis."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx

from tests.parts.choose import redis_kind, start_kafka, start_redis
from tests.parts.kafka import Broker
from tests.parts.topics import drop_topics, new_prefix

ROOT = Path(__file__).resolve().parent.parent
SECS_MAX = 120


@contextmanager
def embedded() -> Iterator[httpx.Client]:
    """`consentinel up`; yields a client that speaks to it as its administrator."""
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder), "up", {}) as client:
        yield client


@contextmanager
def cluster() -> Iterator[httpx.Client]:
    """`consentinel worker` and `gateway` on a broker and a Redis as the tests choose them; yields a client of the gateway."""
    redis_kind()  # first: nothing is started where one of the two is missing
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka, prefix = start_kafka(), new_prefix()
        stack.callback(lambda: kafka.stop(kill=True) if isinstance(kafka, Broker) else kafka.stop())
        stack.callback(drop_topics, kafka.bootstrap, prefix)
        redis = start_redis()
        stack.callback(redis.stop)
        settings = {
            "CONSENTINEL_KAFKA__BOOTSTRAP": kafka.bootstrap, "CONSENTINEL_KAFKA__PREFIX": prefix,
            "CONSENTINEL_REDIS__URL": redis.url, "CONSENTINEL_KEYS__RING": str(folder / "ring"),
        }  # fmt: skip
        apply = _command("topology", "apply")
        subprocess.run(apply, env=_environment(settings), check=True, timeout=SECS_MAX, stdout=subprocess.DEVNULL)
        stack.enter_context(_process(folder, "worker", settings))
        client = stack.enter_context(_served(folder, "gateway", settings))
        _until_ready(client)
        yield client


@contextmanager
def _served(folder: Path, word: str, settings: dict[str, str]) -> Iterator[httpx.Client]:
    with _process(folder, word, settings, "--token-file", str(folder / "token")) as url:
        headers = {"authorization": f"Bearer {(folder / 'token').read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield client


@contextmanager
def _process(folder: Path, word: str, settings: dict[str, str], *flags: str) -> Iterator[str]:
    """Start a command that says `ready URL`; yields the URL."""
    command = _command(word, "--data", str(folder / word), "--port", "0", *flags)
    with (folder / f"{word}.log").open("wb") as log:
        process = subprocess.Popen(command, env=_environment(settings), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        yield next(line.split()[1] for line in process.stdout if line.startswith("ready "))
    finally:
        process.terminate()
        process.wait(SECS_MAX)
        if process.stdout is not None:
            process.stdout.close()


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "connectors.cli", *words]


def _environment(settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONSENTINEL_")}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


def _until_ready(client: httpx.Client) -> None:
    give_up = monotonic() + SECS_MAX
    while client.get("/readyz").status_code != httpx.codes.OK:
        if monotonic() > give_up:
            raise RuntimeError("the gateway was not ready in time")
        sleep(0.1)
