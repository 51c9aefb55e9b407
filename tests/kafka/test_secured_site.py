"""A whole site on a cluster that checks everybody: each process has the rights of its own role and no other, and all of it works.

Denials are looked for where none can be hidden: in the log of the broker's own authorizer.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka import KafkaException

from engine.kafka.acls import apply_acls
from engine.kafka.clients import ConfluentClients
from engine.kafka.names import Names
from engine.kafka.plan import apply_plan
from engine.kafka.worker import Worker
from engine.service import Limits
from engine.topology import default_topology
from tests.doors.http.conftest import STRUCTURED, cloud_event, consent
from tests.kafka.secured import USERS, SecuredBroker
from tests.parts.redis import Redis
from tests.parts.topics import new_prefix

pytestmark = pytest.mark.slow

TOPOLOGY = default_topology()
PRINCIPALS = {"worker": "User:cw", "gateway": "User:cg"}
NUMBER = "+12025550142"
WORK_SECS_MAX = 60.0
DENIED = re.compile(r"Principal = (\S+) is Denied operation = (\S+) .*? resource = (\S+)")
AT_ONCE = Limits(raw_retention_secs=0, maintenance_secs=0.5)


class Site:
    """Processes on one secured cluster, each under a name of its own there."""

    def __init__(self, broker: SecuredBroker, redis: Redis, folder: Path) -> None:
        self.broker, self.folder, self.prefix = broker, folder, new_prefix()
        self.denied_before = len(self._denials())
        self.common = {
            **os.environ, "CONSENTINEL_KAFKA__BOOTSTRAP": broker.broker.address("SASL"),
            "CONSENTINEL_KAFKA__PREFIX": self.prefix, "CONSENTINEL_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "CONSENTINEL_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "CONSENTINEL_KAFKA__CA_FILE": str(broker.authority.certificate), "CONSENTINEL_REDIS__URL": redis.url,
            "CONSENTINEL_KEYS__RING": str(folder / "ring"),
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def as_user(self, user: str) -> dict[str, str]:
        return {**self.common, "CONSENTINEL_KAFKA__USERNAME": user, "CONSENTINEL_KAFKA__PASSWORD": USERS[user]}

    def run(self, user: str, *words: str) -> str:
        """What a command prints that must go well."""
        command = [sys.executable, "-m", "connectors.cli", *words]
        done = subprocess.run(command, env=self.as_user(user), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, user: str, *words: str) -> str:
        """Start a command that says `ready URL`; returns the URL."""
        command = [sys.executable, "-m", "connectors.cli", *words, "--data", str(self.folder / words[0]), "--port", "0"]
        with (self.folder / f"{words[0]}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.as_user(user), stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes[words[0]] = process
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
        raise AssertionError(self.printed()[-3000:])

    def printed(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def denied(self) -> set[tuple[str, ...]]:
        """Who was denied what, on which resource, since the site began, as the authorizer wrote it down."""
        return {found.groups() for found in self._denials()[self.denied_before :]}

    def _denials(self) -> list[re.Match[str]]:
        return list(DENIED.finditer(self.broker.broker.log.read_text(errors="replace")))

    def stop(self, *names: str) -> None:
        """Stop these processes, or all."""
        stopped = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in stopped:
            process.terminate()
        for process in stopped:
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def site(secured: SecuredBroker, redis_server: Redis, tmp_path: Path) -> Iterator[Site]:
    made = Site(secured, redis_server, tmp_path)
    admin = secured.as_admin(made.prefix)
    apply_plan(admin, TOPOLOGY)
    apply_acls(admin, TOPOLOGY, PRINCIPALS)
    yield made
    made.stop()


def verdict(client: httpx.Client) -> str:
    body = {"controller": "acme", "use": "dial", "channel": "voice", "purpose": "marketing", "jurisdiction": "DE"}
    answer = client.post("/v1/decisions", json={**body, "identifiers": [{"kind": "tel", "value": NUMBER}]})
    return str(answer.raise_for_status().json()["verdict"])


def until(what: str, true: object, site: Site) -> None:
    give_up = time.monotonic() + WORK_SECS_MAX
    while not true():  # type: ignore[operator]
        assert time.monotonic() < give_up, (what, site.denied(), site.printed()[-3000:])
        time.sleep(0.2)


def test_worker_and_gateway_do_all_their_work_with_their_own_rights_alone(site: Site, tmp_path: Path) -> None:
    site.start("cw", "worker", "--name", "w1")
    url = site.start("cg", "gateway", "--token-file", str(tmp_path / "token"))
    headers = {"authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        assert verdict(client) == "deny"
        event = cloud_event("consent.given", consent(NUMBER), id="e1")
        client.post("/v1/events", content=json.dumps(event), headers=STRUCTURED).raise_for_status()
        until("a consent becomes an allow", lambda: verdict(client) == "allow", site)
        assert client.get("/v1/lag").raise_for_status().json()["lag"]
        for path in ("/v1/quarantine", "/v1/audit/checkpoints", "/v1/holds?controller=acme"):
            client.get(path).raise_for_status()
        assert client.post("/v1/audit/checkpoint").raise_for_status().json(), "a door signs as well"
        assert client.get("/v1/audit/report").raise_for_status().json()["ok"]
        withdrawn = cloud_event("consent.withdrawn", consent(NUMBER), id="e2")
        client.post("/v1/events", content=json.dumps(withdrawn), headers=STRUCTURED).raise_for_status()
        until("and a withdrawal a denial", lambda: verdict(client) == "deny", site)
    rows = json.loads(site.run("cw", "lag", "--output", "json"))["lag"]
    assert {row["task"] for row in rows} == set(TOPOLOGY.tasks)

    site.stop("worker")
    me = site.broker.as_user("cw", site.prefix)
    names = Names(site.prefix, TOPOLOGY.task_specs())
    clients = ConfluentClients(me, names)
    consents = [(names.topic("consents"), n) for n in range(TOPOLOGY.topics["consents"].partitions)]
    notes = [(names.topic("audit.checkpoints"), 0)]
    signed = clients.ends(notes, committed=True)
    assert any(signed.values()) and not any(clients.starts(consents).values())
    again = Worker.open(me, tmp_path / "worker", ring=tmp_path / "ring", name="w1", limits=AT_ONCE)
    again.start()
    try:
        until("raw payloads are ended", lambda: any(clients.starts(consents).values()), site)
        until("and checkpoints signed", lambda: clients.ends(notes, committed=True) != signed, site)
    finally:
        again.stop()
    assert (again.failed, again.shared.counts.get(("maintenance_failed",))) == (None, None)

    assert not site.denied()
    assert "AUTHORIZATION" not in site.printed()


def test_a_denial_would_have_been_seen(site: Site) -> None:
    """The look-out of the test above: a right that a worker lacks stands in the authorizer's log."""
    with pytest.raises(KafkaException):
        ConfluentClients(site.broker.as_user("cr", site.prefix), Names(site.prefix, TOPOLOGY.task_specs())).starts(
            [(f"{site.prefix}calls", 0)]
        )
    until("it is written down", lambda: ("User:cr", "DESCRIBE", f"Topic:LITERAL:{site.prefix}calls") in site.denied(), site)
