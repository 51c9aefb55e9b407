"""A real Apache Kafka for tests and benchmarks: the one that is given, else a container, else a broker from Maven's jars.

    with Broker() as broker:          # one KRaft node as a child process: Java 17+ and Maven, no containers
        broker.bootstrap              # "127.0.0.1:29092"
        broker.restart(kill=True)     # the same ports and data
        broker.pause(); broker.resume()

Extra broker properties are keyword arguments (`log_retention_ms=1000` is `log.retention.ms`) or, where a name holds an
underscore or a dash, entries of `properties`. Further listeners are named with their protocol and get a port each:

    with Broker(listeners={"SASL": "SASL_PLAINTEXT"}, scram={"alice": "secret"}, properties={...}) as broker:
        broker.address("SASL")
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol, Self

from tests.parts.process import SCRATCH, Child, PartFailed, PartMissing, free_ports

VERSION = os.environ.get("KAFKA_VERSION", "4.1.1")
IMAGE = f"apache/kafka:{VERSION}"
JAVA_MIN = 17
MAVEN_SECS_MAX = 900  # some 60 jars over a slow line, once
START_SECS_MAX = 90
START_TRIES_MAX = 3  # a port that was free when chosen may be taken a second later
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"

# Kafka 4 logs through SLF4J 1, so it needs `log4j-slf4j-impl`: with the binding for SLF4J 2 it prints nothing at all.
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>consentinel</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
</dependencies></project>
"""
LOGGING = """rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
"""
DEFAULTS: dict[str, object] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,  # otherwise every first member of a group waits three seconds for others
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,  # 128 MiB by default, which a small heap does not have
    "auto.create.topics.enable": "false",  # as in production: a topic that is missing must be seen to be missing
}


class Kafka(Protocol):
    """What every kind of broker has. `kind`: given, testcontainers or maven."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def stop(self) -> None: ...


class GivenKafka:
    """A broker that somebody else runs: `$KAFKA_BOOTSTRAP`."""

    kind = "given"

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def stop(self) -> None:
        """It is not ours to stop."""


@cache
def java() -> str:
    """The command of a Java that is new enough; raises PartMissing when there is none."""
    home = os.environ.get("JAVA_HOME")
    command = f"{home}/bin/java" if home else shutil.which("java")
    if command is None:
        raise PartMissing(f"Java {JAVA_MIN} or later was not found")
    done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=30, check=False)
    version = re.search(r'version "(\d+)', done.stderr)
    if version is None or int(version[1]) < JAVA_MIN:
        raise PartMissing(f"Java {JAVA_MIN} or later is needed, {command} is {version[1] if version else 'unknown'}")
    return command


def cached_jars() -> Path:
    """Where Kafka's jars are once they have been fetched."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "consentinel" / f"kafka-{VERSION}" / "libs"


def jars() -> Path:
    """The folder of Kafka's jars; Maven fills it the first time. Raises PartMissing when they cannot be had."""
    libs = cached_jars()
    if libs.is_dir():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise PartMissing("Maven was not found, and Kafka's jars have not been fetched yet")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as work:
        (Path(work) / "pom.xml").write_text(POM)
        copy = [maven, "-q", "-B", "-f", f"{work}/pom.xml", "dependency:copy-dependencies"]
        copy += ["-DincludeScope=runtime", "-DoutputDirectory=libs"]
        done = subprocess.run(copy, capture_output=True, text=True, timeout=MAVEN_SECS_MAX, check=False)
        if done.returncode:
            raise PartMissing(f"Maven could not fetch Kafka's jars:\n{(done.stdout + done.stderr)[-3000:]}")
        try:
            (Path(work) / "libs").rename(libs)  # atomic, so nobody ever sees half a folder
        except OSError:
            if not libs.is_dir():  # otherwise another process was faster, and its folder is as good
                raise
    return libs


class Broker:
    """One KRaft node as a child process on free ports of the loopback; its data is gone after `stop`."""

    kind = "maven"

    def __init__(
        self,
        heap: str = "512m",
        *,
        listeners: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
        properties: Mapping[str, object] | None = None,
        **config: object,
    ) -> None:
        self.heap = heap
        self.protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self.scram = dict(scram or {})
        self.extra = {**{name.replace("_", "."): value for name, value in config.items()}, **(properties or {})}
        self.ports: dict[str, int] = {}
        self.folder: Path | None = None
        self._child: Child | None = None

    def address(self, listener: str = "PLAINTEXT") -> str:
        """host:port of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"

    @property
    def bootstrap(self) -> str:
        return self.address()

    @property
    def pid(self) -> int:
        assert self._child is not None, "the broker is not running"
        return self._child.pid

    @property
    def log(self) -> Path:
        """What the broker prints, over all its restarts."""
        assert self.folder is not None, "the broker was never started"
        return self.folder / "broker.log"

    def start(self) -> Self:
        """Start it; after `stop(keep=True)` on the ports and data it had."""
        libs = jars()
        if self.folder is not None:
            self._run(libs)
            return self
        for tries_left in reversed(range(START_TRIES_MAX)):
            try:
                self._format(libs)
                self._run(libs)
                return self
            except PartFailed as fault:
                self.stop()
                if not tries_left or "Address already in use" not in str(fault):
                    raise
        raise AssertionError("the last try returns or raises")

    def _java(self, libs: Path, *options: str) -> list[str]:
        return [java(), f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties", *options, "-cp", f"{libs}/*"]

    def _format(self, libs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}kafka-"))
        names = ["CONTROLLER", *self.protocols]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        protocols = {"CONTROLLER": "PLAINTEXT", **self.protocols}
        lines = {
            **DEFAULTS,
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(addresses[name] for name in self.protocols),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": self.folder / "data",
            **self.extra,
        }
        conf = self.folder / "server.properties"
        conf.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        conf.chmod(0o600)  # it may hold passwords
        (self.folder / "log4j2.properties").write_text(LOGGING)
        command = self._java(libs, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        command += ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(conf)]
        for user, password in self.scram.items():
            command += ["--add-scram", f"SCRAM-SHA-256=[name={user},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECS_MAX, check=False)
        if done.returncode:
            raise PartFailed(f"Kafka's storage could not be formatted:\n{(done.stdout + done.stderr)[-3000:]}")

    def _run(self, libs: Path) -> None:
        assert self.folder is not None
        command = self._java(libs, f"-Xmx{self.heap}", "-XX:+UseSerialGC")
        child = Child([*command, "kafka.Kafka", str(self.folder / "server.properties")], self.folder, self.log, scratch=True)
        child.wait_until(lambda: "Kafka Server started" in child.printed(), START_SECS_MAX)
        self._child = child

    def restart(self, *, kill: bool = False) -> None:
        """SIGTERM (or SIGKILL) and up again, on the same ports and data; returns when it serves."""
        self.stop(kill=kill, keep=True)
        self.start()

    def pause(self) -> None:
        """Freeze it: its connections stay open and nothing answers."""
        assert self._child is not None, "the broker is not running"
        self._child.pause()

    def resume(self) -> None:
        assert self._child is not None, "the broker is not running"
        self._child.resume()

    def stop(self, *, kill: bool = False, keep: bool = False) -> None:
        """End it. `keep`: leave ports and data for another `start`."""
        if self._child is not None:
            self._child.stop(kill=kill)
            self._child = None
        if not keep and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop(kill=True)  # the data goes anyway, so nothing is lost by not asking politely
