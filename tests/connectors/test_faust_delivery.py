"""The edges on a real broker: every alert reaches the receiver, whatever the receiver and the worker do meanwhile."""

import hmac
import json
import signal
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.codec import encode
from schemas.topics import BreachAlert, ErasureNotice
from tests.connectors.faust_child import SECRET, Child, until
from tests.parts.kafka import Kafka
from tests.parts.topics import make_topics

ALERTS, NOTICES, PARTITIONS = "breach.alerts", "erasure.notices", 2
FLUSH_SECS_MAX = 30.0


class Receiver:
    """An HTTP server that takes or refuses events as the test says."""

    def __init__(self) -> None:
        self.refusing: Callable[[int], bool] = lambda _: False  # number of the request → whether it is refused
        self.requests: list[tuple[dict[str, str], bytes, bool]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused = receiver.refusing(len(receiver.requests))
                receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body, not refused))
                self.send_response(503 if refused else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def taken(self) -> list[dict[str, Any]]:
        """The events that were taken, as they came."""
        return [json.loads(body) for _, body, taken in list(self.requests) if taken]

    def names(self) -> list[str]:
        return [event["data"].get("incident_id") or event["data"].get("order_id") for event in self.taken()]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def publish(kafka: Kafka, prefix: str, first: int, count: int, *, abort: bool = False) -> None:
    """Alerts and notices as a turn writes them: in a transaction."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{prefix}test"})
    producer.init_transactions(FLUSH_SECS_MAX)
    producer.begin_transaction()
    for n in range(first, first + count):
        alert = BreachAlert(
            incident_id=f"inc-{n}", controller="acme", clock="authority", level="24h", due_ms=1, headroom_ms=2, risk="high"
        )
        notice = ErasureNotice(
            order_id=f"ord-{n}", controller="acme", subject_ref="sub_" + "a" * 26, items=("call-1",), cause="request",
            acknowledge_by_ms=1, targets=("crm",),
        )  # fmt: skip
        producer.produce(prefix + ALERTS, encode(alert), f"inc-{n}".encode(), n % PARTITIONS)
        producer.produce(prefix + NOTICES, encode(notice), f"ord-{n}".encode(), n % PARTITIONS)
    if abort:
        producer.flush(FLUSH_SECS_MAX)  # so that they are on the log
        producer.abort_transaction(FLUSH_SECS_MAX)
    else:
        producer.commit_transaction(FLUSH_SECS_MAX)


def expected(numbers: range) -> set[str]:
    return {f"{kind}-{n}" for n in numbers for kind in ("inc", "ord")}


def repeated(requests: list[tuple[dict[str, str], bytes, bool]]) -> set[str]:
    """The keys that came again after they were taken."""
    taken: set[str] = set()
    again: set[str] = set()
    for headers, _, is_taken in requests:
        key = headers["idempotency-key"]
        if key in taken:
            again.add(key)
        if is_taken:
            taken.add(key)
    return again


def verified(headers: dict[str, str], body: bytes) -> bool:
    """What a receiver does, from the words of the documentation."""
    parts = dict(part.split("=", 1) for part in headers["consentinel-signature"].split(","))
    wanted = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + body, sha256).hexdigest()
    return hmac.compare_digest(wanted, parts["v1"])


@pytest.mark.slow
def test_every_alert_arrives_though_the_receiver_fails_and_workers_are_killed(
    kafka: Kafka, fresh_prefix: str, receiver: Receiver, tmp_path: Path
) -> None:
    begins: list[int] = []  # the number of each life's first request

    def life() -> Child:
        begins.append(len(receiver.requests))
        return Child(kafka.bootstrap, fresh_prefix, tmp_path / "w1", receiver.url)

    make_topics(kafka.bootstrap, {fresh_prefix + ALERTS: PARTITIONS, fresh_prefix + NOTICES: PARTITIONS})
    publish(kafka, fresh_prefix, 0, 4)
    publish(kafka, fresh_prefix, 100, 2, abort=True)
    publish(kafka, fresh_prefix, 4, 4)
    receiver.refusing = lambda n: n < 3 or n >= 6  # fails, takes three, fails again
    with life() as child:
        until(lambda: len(receiver.requests) >= 8)
        child.end(signal.SIGKILL)  # in the middle of being refused
    with life() as child:
        refused = len(receiver.requests)
        until(lambda: len(receiver.requests) > refused)
        assert child.end(signal.SIGTERM) == 0  # and so is a clean stop
    assert expected(range(8)) - set(receiver.names()), "nothing was left to arrive: the test shows nothing"
    receiver.refusing = lambda n: n % 3 == 0
    with life() as child:
        until(lambda: expected(range(8)) <= set(receiver.names()))
        publish(kafka, fresh_prefix, 8, 1)  # it goes on with what is new
        until(lambda: expected(range(9)) <= set(receiver.names()))
        assert child.end(signal.SIGTERM) == 0
    assert set(receiver.names()) == expected(range(9)), "an aborted transaction was told of"
    with life() as child:
        publish(kafka, fresh_prefix, 9, 1)
        until(lambda: expected(range(9, 10)) <= set(receiver.names()))
    lives = [receiver.requests[first:end] for first, end in pairwise([*begins, len(receiver.requests)])]
    assert [repeated(requests) for requests in lives] == [set()] * 4, "one worker sent again what it saw taken"
    assert all(verified(headers, body) for headers, body, _ in receiver.requests)
    keys: dict[str, set[str]] = {}
    for headers, body, _ in receiver.requests:
        event = json.loads(body)
        assert headers["idempotency-key"] == event["id"]
        keys.setdefault(json.dumps(event["data"]), set()).add(event["id"])
    assert all(len(ids) == 1 for ids in keys.values()), "the same event came under two keys"
    assert len(set().union(*keys.values())) == len(keys)
