"""Retention asked of a gateway: the workers do it, and the gateway says when they have, from what the read model knows."""

from typing import Any

import pytest

from tests.endtoend.world import Told
from tests.harness import call, party

from .test_worker import until
from .whole_site import Whole, now_ms

pytestmark = pytest.mark.slow

PREVIEW, RUN = "/v1/retention/preview", "/v1/admin/retention/now"
DAY_MS = 86_400_000
POLICY = {"policy_id": "short", "selector": {"channel": "voice"}, "keep_for": "P6M", "from": "2020-01-01T00:00:00Z"}


def asked(whole: Whole, method: str, path: str, **more: Any) -> Any:
    answer = whole.http.request(method, path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_policy_is_looked_at_and_what_must_go_is_gone_when_the_gateway_says_so(whole: Whole) -> None:
    whole.apply()
    worker = whole.worker("w1")
    worker.wait_ready()
    whole.gateway()
    whole.send([Told("controller.configured", "s1", now_ms(), {"default_region": "DE", "employee_basis": "contract"})])
    caller, age_ms = party("p1", "customer", ("tel", "+493090182240")), 40 * DAY_MS
    whole.send(Told("call.started", name, now_ms() - age_ms, call(name, caller)) for name in ("c1", "c2", "c3"))
    until(lambda: len(whole.views()) == 3)
    before = asked(whole, "GET", f"{PREVIEW}?controller=acme")
    assert (before["items"], set(before["by_rule"]), before["next"]) == (3, {"default_period"}, None)
    proposed = asked(whole, "POST", PREVIEW, json={"controller": "acme", "policies": [POLICY]})
    assert proposed["earlier"] == 3 and set(proposed["by_rule"]) == {"policy short"}
    whole.send([Told("retention.policy_set", "p1", now_ms(), POLICY)])
    ran = asked(whole, "POST", RUN)
    assert ran["finished"] and ran["conversations"] == {}
    assert asked(whole, "GET", f"{PREVIEW}?controller=acme")["by_rule"] == proposed["by_rule"]

    whole.send([Told("call.tagged", "t1", now_ms(), {"conversation_id": "c2", "tag": "unlawful"})])
    assert asked(whole, "POST", RUN)["finished"]
    assert asked(whole, "GET", f"{PREVIEW}?controller=acme")["items"] == 2, "what was found unlawful went at once"

    assert worker.end() == 0
    answer = whole.http.post(RUN)
    assert answer.status_code == 503, "without workers nobody knows what has gone"
