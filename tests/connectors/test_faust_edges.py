"""The edge agents, the webhook and the metrics by themselves: no broker, no Faust, and a real receiver where there is one."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.faust.edges import KINDS, UNDECODABLE, WAIT_SECS_MAX, Edge, LogSink, key_of
from connectors.faust.metrics import Metrics, settled
from connectors.webhook import ReceiverFailed, ReceiverRefused, Webhook, WebhookImpossible, signature
from engine.kafka.names import Unit
from schemas.codec import encode
from schemas.topics import BreachAlert, ErasureNotice
from tests.connectors.faust_child import SECRET, StubEngine, StubFeed

REF = "sub_" + "a" * 26
ALERT = BreachAlert(incident_id="inc-1", controller="acme", clock="authority", level="24h", due_ms=5, headroom_ms=6, risk="high")
NOTICE = ErasureNotice(
    order_id="ord-1", controller="acme", subject_ref=REF, items=("call-1",), cause="request", acknowledge_by_ms=9,
    targets=("crm",), request_id="req-1",
)  # fmt: skip
ALERTS, NOTICES = KINDS


class Message:
    """A record as Faust hands it over."""

    def __init__(self, value: bytes | None, offset: int = 0) -> None:
        self.topic, self.partition, self.offset, self.timestamp, self.value = "p.breach.alerts", 1, offset, 1_700_000_000.5, value


class Event:
    def __init__(self, message: Message) -> None:
        self.message, self.acks = message, 0

    def ack(self) -> bool:
        self.acks += 1
        return True


class Stream:
    """A stream that is read by hand; without `noack` there is nothing to read."""

    def __init__(self, *values: bytes | None) -> None:
        self.all = [Event(Message(value, n)) for n, value in enumerate(values)]
        self._noack = False

    def noack(self) -> "Stream":
        self._noack = True
        return self

    async def events(self) -> AsyncIterator[Event]:
        assert self._noack, "Faust would acknowledge by itself"
        for event in self.all:
            yield event


class Sink:
    """Fails as often as told, then takes."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.taken = failures, list[tuple[str, dict[str, Any]]]()

    async def deliver(self, key: str, document: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("details that no log must have")
        self.taken.append((key, json.loads(document)))

    async def close(self) -> None:
        pass


def edge(sink: Any, kind: Any = ALERTS) -> tuple[Edge, list[float]]:
    waits: list[float] = []

    async def sleep(secs: float) -> None:
        waits.append(secs)

    return Edge(kind, sink, "consentinel/test", sleep=sleep, clock=lambda: float(len(waits))), waits


def test_what_fails_is_tried_again_with_waits_that_grow_and_the_next_one_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    sink, stream = Sink(failures=12), Stream(encode(ALERT), encode(ALERT))
    one, waits = edge(sink)
    asyncio.run(one.run(stream))
    assert len(waits) == 12
    assert waits[:3] == [0.1, 0.2, 0.4] and max(waits) == waits[-1] == WAIT_SECS_MAX
    assert [event.acks for event in stream.all] == [1, 1]
    assert (one.delivered, one.failures, one.waiting_secs) == (2, {"ConnectionError": 12}, 0.0)
    assert len(caplog.records) == 1 and "details" not in caplog.text, "one line for one event, without what was said"


def test_an_event_is_not_acknowledged_before_it_is_taken_nor_when_a_stop_comes_between() -> None:
    stream, acks = Stream(encode(ALERT)), list[int]()

    class Stuck(Sink):
        async def deliver(self, key: str, document: bytes) -> None:
            acks.append(stream.all[0].acks)
            await asyncio.sleep(3600)

    async def body() -> None:
        one, _ = edge(Stuck())
        task = asyncio.create_task(one.run(stream))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert acks == [0], "it was acknowledged before it was taken"
    assert stream.all[0].acks == 0, "it was acknowledged though nobody took it"


def test_a_receiver_gets_a_cloud_event_whose_id_is_the_key() -> None:
    sink = Sink()
    asyncio.run(edge(sink, NOTICES)[0].run(Stream(encode(NOTICE))))
    [(key, event)] = sink.taken
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "time")} == {
        "specversion": "1.0", "id": key, "source": "consentinel/test", "type": "erasure.notice",
        "time": "2023-11-14T22:13:20.500Z",
    }  # fmt: skip
    assert event["data"]["subject_ref"] == REF and event["data"]["targets"] == ["crm"]


def test_a_key_is_the_same_for_the_same_record_and_another_one_for_any_other() -> None:
    same, later, other = Message(b"a", 7), Message(b"a", 8), Message(b"b", 7)
    assert key_of(same) == key_of(Message(b"a", 7))
    assert len({key_of(same), key_of(later), key_of(other), key_of(Message(None, 7))}) == 4


@pytest.mark.parametrize("value", [b"no record at all", None, encode(NOTICE)])
def test_of_a_record_that_cannot_be_decoded_the_place_is_told(value: bytes | None) -> None:
    sink, stream = Sink(), Stream(value)
    asyncio.run(edge(sink)[0].run(stream))
    [(_, event)] = sink.taken
    assert event["type"] == UNDECODABLE
    assert event["data"] == {"topic": "breach.alerts", "partition": 1, "offset": 0}
    assert stream.all[0].acks == 1


def test_the_log_tells_of_a_notice_and_names_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    asyncio.run(edge(LogSink(), NOTICES)[0].run(Stream(encode(NOTICE))))
    [record] = caplog.records
    line = json.loads(record.getMessage())
    assert (line["type"], line["order_id"], line["targets"]) == ("erasure.notice", "ord-1", ["crm"])
    assert not any(secret in caplog.text for secret in (REF, "call-1", "req-1"))


# The webhook ----------------------------------------------------------------------------------------------------------------


def posted(answer: httpx.Response, secret: str = SECRET) -> list[httpx.Request]:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async def body() -> None:
        transport = httpx.MockTransport(handle)
        hook = Webhook("https://receiver.example/hook?a=1", secret, clock=lambda: 1_700_000_000.9, transport=transport)
        try:
            await hook.deliver("key-1", b'{"a":1}')
        finally:
            await hook.close()

    asyncio.run(body())
    return seen


def test_a_post_is_signed_over_its_time_and_its_body() -> None:
    [request] = posted(httpx.Response(204))
    assert str(request.url) == "https://receiver.example/hook?a=1"
    assert request.content == b'{"a":1}'
    assert request.headers["idempotency-key"] == "key-1"
    assert request.headers["content-type"] == "application/cloudevents+json"
    # printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of the tests'
    assert request.headers["consentinel-signature"] == signature(SECRET.encode(), 1_700_000_000, b'{"a":1}')


def test_the_signature_is_the_one_that_anybody_computes() -> None:
    # RFC 4231 has no such message, so this one was computed by OpenSSL.
    wanted = "t=1700000000,v1=7b2992c1f41ac383ed7caf6d966ef2b7b897d4ad70fa29241394a7316e268e9e"
    assert signature(SECRET.encode(), 1_700_000_000, b'{"a":1}') == wanted


@pytest.mark.parametrize(
    ("status", "fault"), [(302, ReceiverRefused), (400, ReceiverRefused), (410, ReceiverRefused), (503, ReceiverFailed)]
)
def test_whatever_is_not_2xx_is_not_taken(status: int, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        posted(httpx.Response(status, headers={"location": "https://elsewhere.example/"}))


@pytest.mark.parametrize(
    ("url", "secret", "setting"),
    [
        ("ftp://receiver.example/", SECRET, "webhook.url"), ("receiver.example", SECRET, "webhook.url"),
        ("https:///hook", SECRET, "webhook.url"), ("https://receiver.example/", "short", "webhook.secret"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_name_and_never_shown(url: str, secret: str, setting: str) -> None:
    with pytest.raises(WebhookImpossible, match=setting) as refused:
        Webhook(url, secret)
    assert url not in str(refused.value) and secret not in str(refused.value)


def test_a_file_that_is_no_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for file in ("ca.pem", "missing.pem"):
        with pytest.raises(WebhookImpossible, match=r"webhook\.ca_file"):
            Webhook("https://receiver.example/", SECRET, ca_file=tmp_path / file)


# The metrics ----------------------------------------------------------------------------------------------------------------


def test_every_figure_has_its_line() -> None:
    feed, one = StubFeed(), edge(Sink())[0]
    feed.lag, feed.applied, feed.last_error = {Unit("subject", 3): 8}, 12, "Redis: ConnectionError"
    one.delivered, one.failures = 2, {"ReceiverFailed": 1}
    lines = Metrics(StubEngine(), feed, [one]).text().decode().splitlines()
    for line in (
        "consentinel_up 1.0",
        "consentinel_ready 1.0",
        'consentinel_lag_records{partition="0",task="intake",topic="calls"} 7.0',
        'consentinel_lag_seconds{partition="0",task="intake"} 1.5',
        'consentinel_restore_records_remaining{partition="1",task="subject"} 5.0',
        "consentinel_restored_records_total 11.0",
        "consentinel_units 3.0",
        "consentinel_transactions_total 9.0",
        'consentinel_transaction_aborts_total{reason="_FENCED"} 2.0',
        'consentinel_batch_records_bucket{le="1.0"} 1.0',
        'consentinel_batch_records_bucket{le="10.0"} 3.0',
        'consentinel_batch_records_bucket{le="+Inf"} 4.0',
        "consentinel_batch_records_count 4.0",
        "consentinel_batch_records_sum 111.0",
        'consentinel_batch_seconds_bucket{le="1.0"} 1.0',
        'consentinel_records_folded_total{task="intake"} 4.0',
        'consentinel_quarantined_total{code="unknown-type"} 2.0',
        'consentinel_engine_total{name="commits_lost"} 1.0',
        'consentinel_edge_deliveries_total{topic="breach.alerts"} 2.0',
        'consentinel_edge_failures_total{reason="ReceiverFailed",topic="breach.alerts"} 1.0',
        'consentinel_read_model_lag_records{partition="3",task="subject"} 8.0',
        "consentinel_read_model_records_total 12.0",
        "consentinel_read_model_stalled 1.0",
    ):
        assert line in lines, line
    assert not any(line.startswith("consentinel_lag_seconds") and 'task="case"' in line for line in lines), "nobody knows its age"


def test_a_dead_engine_is_down_and_not_ready() -> None:
    engine = StubEngine()
    engine.die()
    lines = Metrics(engine, None, []).text().decode().splitlines()
    assert "consentinel_up 0.0" in lines and "consentinel_ready 0.0" in lines
    assert not any("read_model" in line for line in lines)


def test_a_table_that_changes_under_a_look_is_looked_at_again_and_not_for_ever() -> None:
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise RuntimeError("dictionary changed size during iteration")
        return looks

    assert settled(look) == 3

    def never() -> int:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        settled(never)
