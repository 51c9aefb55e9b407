"""A receipt from a gateway on a cluster: entries from Kafka, checkpoints over what the read model knows to be committed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.proofs import check_consistency
from engine.receipts import check_receipt
from tests.doors.http.conftest import consent
from tests.parts.kafka import Kafka
from tests.parts.redis import RedisServer

from .gateway_site import Site, until

pytestmark = pytest.mark.slow
NUMBER = "+493090182240"
ASK = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "web", "verified_by": "x",
       "identifiers": [{"kind": "tel", "value": NUMBER}]}  # fmt: skip


@contextmanager
def beating(site: Site) -> Iterator[None]:
    """A worker that works meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.3):
            site.fold()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def site(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Site]:
    with RedisServer() as redis:
        made = Site(kafka.bootstrap, redis.url, fresh_prefix, tmp_path)
        try:
            yield made
        finally:
            made.close()


def receipt(gateway: Any, request_id: str) -> Any:
    response = gateway.by_role("auditor").get(f"/v1/receipts/{request_id}")
    assert response.status_code == 200, response.text
    return check_receipt(response.content, gateway.service.signer.vkey)


def test_a_gateway_gives_receipts_and_shows_that_its_log_only_grows(site: Site) -> None:
    gateway = site.gateway()
    site.feed()
    gateway.send("consent.given", consent(NUMBER))
    site.fresh()
    with beating(site):
        kept = {note.split("\n")[0]: note for note in gateway.service.checkpoint()}
        opened = gateway.root.post("/v1/requests", json=ASK)
        assert opened.status_code == 202, opened.text
        request_id = opened.json()["request_id"]
        until(lambda: gateway.root.get(f"/v1/requests/{request_id}").json().get("state") == "fulfilled")
        found = receipt(gateway, request_id)
        assert found.summary.complete and found.summary.identifiers_erased == 1
        assert {"request.opened", "erasure.fenced", "consents.erased", "request.closed"} <= {e.kind for e in found.entries}
        origin = next(section.note.split("\n")[0] for section in found.sections if "/subject/" in section.note)
        old = kept[origin].split("\n")[1]
        proof = gateway.by_role("auditor").get("/v1/audit/proof", params={"origin": origin, "old": old})
        before, after = check_consistency(proof.text, kept[origin], gateway.service.signer.vkey)
        assert after.size > before.size > 0
