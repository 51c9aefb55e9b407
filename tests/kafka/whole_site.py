"""A whole site as operators run it: a broker and a Redis of its own, workers and gateways as processes, a folder of recordings.

What takes hours by the plan's settings (the roll of a segment, its cleaning, the end of raw data) is brought about within seconds
by settings of the test's own, at a moment of its own: `Whole.physically`.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import redis
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rocksdict import BottommostLevelCompaction, CompactOptions, Options, Rdict

from engine.kafka.retention import RawRetention
from engine.kafka.topics import HOUR_MS
from engine.notes import Signer
from tests.endtoend.world import Told
from tests.harness import call, party
from tests.parts.kafka import Broker
from tests.parts.redis import RedisServer

from .test_erasure_kills import Story
from .test_worker import TASKS, TOPOLOGY, WorkerProcess, until

COMMAND_SECS_MAX = 300
WAIT_SECS_MAX = 180.0
RAW = tuple(name for name, topic in TOPOLOGY.topics.items() if topic.retention == "raw")
COMPACT = tuple(name for name, topic in TOPOLOGY.topics.items() if topic.cleanup == "compact" and topic.personal)
# As small as Kafka allows for what `engine/kafka/topics.py` bounds by hours: a record that is superseded goes within seconds.
QUICK = {
    "segment.ms": "1000", "max.compaction.lag.ms": "1000", "min.cleanable.dirty.ratio": "0.0001", "delete.retention.ms": "1000",
    "file.delete.delay.ms": "100",
}  # fmt: skip
ENDED = {"retention.ms": "1000", "segment.ms": "1000", "file.delete.delay.ms": "100"}


OTHERS = tuple(f"+130355501{n:02d}" for n in range(40, 70))  # who are heard of while logs are cleaned


def broker() -> Broker:
    """A broker that looks every half second whether there is something to clean or to delete."""
    return Broker(
        log_retention_check_interval_ms=500, log_initial_task_delay_ms=500, log_cleaner_backoff_ms=500,
        log_index_size_max_bytes=64 * 1024,  # not 10 MiB of zeros for each of two hundred segments: a scan reads every byte
    )  # fmt: skip


class Whole(Story):
    """One deployment on a broker and a Redis that hold nothing else."""

    def __init__(self, kafka: Broker, redis_: RedisServer, prefix: str, folder: Path) -> None:
        super().__init__(kafka, prefix, folder)
        self.kafka, self.redis = kafka, redis_
        self.recordings = folder / "recordings"
        self.recordings.mkdir()
        self.environ |= {
            "CONSENTINEL_REDIS__URL": redis_.url, "CONSENTINEL_RAW__RETENTION_SECS": "1",
            "CONSENTINEL_MEDIA__ROOTS": json.dumps([str(self.recordings)]), "CONSENTINEL_TOKEN_FILE": str(folder / "token"),
        }  # fmt: skip
        self.vkey = Signer(f"consentinel/{self.ring.deployment()}", self.ring.signing_seed()).vkey
        self.http = httpx.Client(timeout=60)
        self._gateway: subprocess.Popen[str] | None = None
        self._stores: set[Path] = set()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap})

    # Processes ----------------------------------------------------------------------------------------------------------------

    def worker(self, name: str, *flags: str) -> WorkerProcess:
        """Start a worker."""
        self._stores.add(self.folder / name)
        return super().worker(name, *flags)

    def gateway(self) -> None:
        """Start a gateway; `http` speaks to it as its administrator."""
        token = self.folder / "token"
        command = self.command("gateway", "--data", str(self.folder / "g1"), "--port", "0", "--token-file", str(token))
        with (self.folder / "g1.err").open("ab") as err:
            self._gateway = subprocess.Popen(
                command, env=self.environ, cwd=self.folder, stdout=subprocess.PIPE, stderr=err, text=True
            )  # fmt: skip
        assert self._gateway.stdout is not None
        said = self._gateway.stdout.readline().split()
        assert said[:1] == ["ready"], (self.folder / "g1.err").read_text()[-3000:]
        self.http.base_url = httpx.URL(said[1])
        self.http.headers["authorization"] = f"Bearer {token.read_text().strip()}"
        until(lambda: self.http.get("/readyz").status_code == 200)

    def rest(self) -> None:
        """Stop every process of the product: what they had in memory is in their files."""
        for worker in self.workers:
            if worker.process.poll() is None:
                assert worker.end() == 0, worker.err.read_text()[-3000:]
        if self._gateway is not None:
            self._gateway.terminate()
            self._gateway.wait(60)
            assert self._gateway.stdout is not None
            self._gateway.stdout.close()
            self._gateway = None

    def close(self) -> None:
        """End whatever runs."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait(60)
            assert self._gateway.stdout is not None
            self._gateway.stdout.close()
        self.http.close()
        del self._admin  # it would go on asking for its broker when that is gone
        super().close()

    # In -----------------------------------------------------------------------------------------------------------------------

    def send(self, events: Iterable[Told], controller: str = "acme") -> None:
        """Publish events as CloudEvents, in one batch."""
        batch = [
            {"specversion": "1.0", "id": e.id, "source": "test", "type": e.type, "controller": controller, "data": e.data,
             "time": datetime.fromtimestamp(e.time_ms / 1_000, UTC).isoformat()} for e in events
        ]  # fmt: skip
        answer = self.http.post("/v1/events", json=batch, headers={"content-type": "application/cloudevents-batch+json"})
        assert answer.status_code == 202, answer.text[:500]

    def vcon(self, document: dict[str, Any]) -> None:
        """Publish a conversation as a vCon."""
        answer = self.http.post("/v1/vendors/vcon?controller=acme", content=msgspec.json.encode(document))
        assert answer.status_code == 202, answer.text[:500]

    def ask(self, *identifiers: tuple[str, str]) -> str:
        """Open an erasure, its asker's identity verified; returns its id."""
        named = [{"kind": kind, "value": value} for kind, value in identifiers]
        body = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "web", "verified_by": "x"}
        answer = self.http.post("/v1/requests", json={**body, "identifiers": named})
        assert answer.status_code == 202, answer.text[:500]
        return str(answer.json()["request_id"])

    def folded(self) -> bool:
        """Whether the workers that live have folded everything that is there."""
        living = [w for w in self.workers if w.process.poll() is None]
        rows = [row for w in living for row in json.loads(w.get("/v1/lag")[1])["lag"]]
        return bool(rows) and all(row["records"] == 0 for row in rows)

    # What rests ---------------------------------------------------------------------------------------------------------------

    def physically(self, stir: Callable[[], None]) -> None:
        """Bring about the bound of physical removal: every log is cleaned of what is superseded by now, and raw data is gone.

        Kafka rolls a segment when something is written to the partition: `stir` writes to all of them, about others.
        """
        kept = [*(self.names.topic(name) for name in COMPACT), *(self.names.changelog(task.name) for task in TASKS)]
        raw = [self.names.topic(name) for name in RAW]
        ends = self._ends(kept)
        self._alter(kept, QUICK)
        give_up = time.monotonic() + WAIT_SECS_MAX
        while late := [at for at, end in ends.items() if self._cleaned().get(at, 0) < end]:
            assert time.monotonic() < give_up, f"not cleaned: {late[:5]}"
            stir()
            time.sleep(1.1)
        until(self.folded)
        raw_ends = self._ends(raw)
        self._alter(raw, ENDED)
        until(lambda: not any(self._rests(at, end) for at, end in raw_ends.items()), WAIT_SECS_MAX)
        until(lambda: not any(self._folder().glob(f"{self.prefix}*/*.deleted")), WAIT_SECS_MAX)

    def hours_later(self) -> None:
        """Do what a worker's housekeeping does some hours later: nothing rests under the hour's raw key any more, so it goes."""
        self.ring.refresh()
        retention = RawRetention(self.clients, self.names, TOPOLOGY, self.edge, self.ring, self.secrets, 1)
        for hours in (2, 4):  # it is closed, and later destroyed
            retention.run(now_ms() + hours * HOUR_MS)
        assert not [key for key in self.ring.raw_keys() if key[1] == "raw"], "some raw key lives"

    def compact(self) -> None:
        """Have RocksDB rewrite the tables of every store, as it does in its own time; then open each once more.

        Its manifest names the bounds of tables that are gone until the store is opened again.
        """
        for store in sorted(path for folder in self._stores for path in (folder / "stores").iterdir()):
            for _ in range(2):
                db = Rdict(str(store), options=Options(raw_mode=True))
                options = CompactOptions()
                options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
                db.compact_range(None, None, options)
                db.close()

    def scan(self, *args: str, words: Iterable[str], extra: Iterable[Path] = ()) -> dict[str, Any]:
        """`consentinel scan` over everything that rests. Processes of the product must be at rest."""
        assert self.kafka.folder is not None and self.redis.folder is not None
        (self.folder / "words").write_text("\n".join(words))
        with redis.Redis.from_url(self.redis.url) as client:
            client.save()
        command = ["scan", "--output", "json", "--words", str(self.folder / "words"), "--ring", str(self.folder / "ring")]
        command += [part for store in sorted(self._stores) for part in ("--data", str(store))]
        command += ["--log-dir", str(self.kafka.folder / "data"), "--redis-dump", str(self.redis.folder / "dump.rdb")]
        command += [part for path in (self.folder / "g1", self.recordings, *extra) for part in ("--path", str(path))]
        done = subprocess.run(
            self.command(*command, *args), env=self.environ, cwd=self.folder, capture_output=True, text=True,
            timeout=COMMAND_SECS_MAX, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    def _ends(self, topics: list[str]) -> dict[tuple[str, int], int]:
        counts = {name: len(t.partitions) for name, t in self._admin.list_topics(timeout=30).topics.items()}
        return self.clients.ends([(name, n) for name in topics for n in range(counts[name])], committed=False)

    def _alter(self, topics: list[str], settings: dict[str, str]) -> None:
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in settings.items()])
            for name in topics
        ]  # fmt: skip
        for done in self._admin.incremental_alter_configs(resources).values():
            done.result(30)

    def _folder(self) -> Path:
        assert self.kafka.folder is not None
        return self.kafka.folder / "data"

    def _cleaned(self) -> dict[tuple[str, int], int]:
        """Up to which offset the cleaner has cleaned each partition, as it has written down itself."""
        try:
            rows = [line.split(" ") for line in (self._folder() / "cleaner-offset-checkpoint").read_text().splitlines()]
        except FileNotFoundError:
            return {}
        return {(row[0], int(row[1])): int(row[2]) for row in rows if len(row) == 3}

    def _rests(self, at: tuple[str, int], end: int) -> bool:
        """Whether a segment with records from before `end` is still a file; also one that is renamed and waits for its end."""
        found = (self._folder() / f"{at[0]}-{at[1]}").glob("*.log*")
        return any(int(path.name.partition(".")[0]) < end for path in found)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def others(n: int) -> Iterator[Told]:
    """Round `n` of what others say and do, in every partition: a log is cleaned only when something comes after it."""
    at = now_ms()
    for k, number in enumerate(OTHERS):
        name, who = f"other-{n}-{k}", party("0", "customer", ("tel", number))
        yield Told("call.started", f"{name}/s", at, call(name, who))
        yield Told("call.ended", f"{name}/e", at, {"conversation_id": name})
        named = [{"kind": "tel", "value": number}]
        consent = {"identifiers": named, "purposes": [f"purpose {n}"], "method": "web", "evidence": {}}
        yield Told("consent.given", f"{name}/c", at, consent)


class Stir:
    """Publishes one more round of others with each call."""

    def __init__(self, site: Whole) -> None:
        self.site, self.rounds = site, 0

    def __call__(self) -> None:
        self.site.send(others(self.rounds))
        self.rounds += 1


def outside(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where needles stand that must not stand there."""
    found = (w for row in report["needles"] for w in row["where"] if w["standing"] == "outside")
    return sorted({(w["source"], w["kind"], w["name"], *w["how"]) for w in found})
