"""The compose file brings up a cluster that takes consents, decides, and goes on deciding when a worker is killed."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.containers.stack import Caller, Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compose")]

CONTROLLER = "acme"
ALLOW_SECS_MAX = 30.0
FAILOVER_SECS_MAX = 60.0  # the session's end, a rebalance, the restore of what was taken over, and two slow cores
BACK_SECS_MAX = 120.0
SETTLED_SECS_MAX = 30.0  # until nothing but the consents themselves speaks against a call: a beat past what was sent last
PERSON = [{"kind": "tel", "value": "+12025550142"}]
OTHER = [{"kind": "email", "value": "person@example.com"}]
CONSENT: dict[str, Any] = {"purposes": ["marketing"], "channels": ["voice"], "method": "web", "evidence": {}}
WITHDRAWN = {"withdrawal_pending", "consent_withdrawn"}  # accepted, and folded: for a moment it is both


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


def verdict(dialer: Caller, identifiers: list[dict[str, str]]) -> str:
    """The verdict and its reasons, as one word for the messages of assertions."""
    asked = {"controller": CONTROLLER, "use": "dial", "channel": "voice", "purpose": "marketing", "identifiers": identifiers,
             "jurisdiction": "DE"}  # where no hour is closed to calls  # fmt: skip
    answer = dialer.post("/v1/decisions", asked)
    return " ".join([answer["verdict"], *answer["reasons"]])


def until_allowed(dialer: Caller, identifiers: list[dict[str, str]], timeout_secs: float) -> None:
    until(lambda: verdict(dialer, identifiers), lambda found: found == "allow", timeout_secs)


def until_denied(dialer: Caller, identifiers: list[dict[str, str]], reason: str, timeout_secs: float) -> None:
    """Until `reason` is the only one: a worker that comes or goes may add its own for a while, and at no moment it is allowed."""

    def asked() -> str:
        found = verdict(dialer, identifiers)
        assert found.startswith("deny "), f"it was to be denied: {reason}"
        return found

    until(asked, lambda found: found == f"deny {reason}", timeout_secs)


def test_a_consent_becomes_an_allowed_call_also_after_a_worker_was_killed(stack: Stack) -> None:
    administrator = stack.administrator()
    publisher = administrator.becomes("acd", ["publisher"], CONTROLLER)
    dialer = administrator.becomes("dialer", ["decider"], CONTROLLER)
    administrator.send("controller.configured", CONTROLLER, {"default_region": "US", "employee_basis": "art6_1_f"})

    until_denied(dialer, PERSON, "consent_unknown", SETTLED_SECS_MAX)
    publisher.send("consent.given", CONTROLLER, {"identifiers": PERSON, **CONSENT})
    until_allowed(dialer, PERSON, ALLOW_SECS_MAX)

    stack.compose("kill", "worker-1")
    publisher.send("consent.given", CONTROLLER, {"identifiers": OTHER, **CONSENT})
    until_allowed(dialer, PERSON, FAILOVER_SECS_MAX)
    until_allowed(dialer, OTHER, FAILOVER_SECS_MAX)

    publisher.send("consent.withdrawn", CONTROLLER, {"identifiers": PERSON, **CONSENT})
    said, *reasons = verdict(dialer, PERSON).split()
    assert said == "deny" and WITHDRAWN & set(reasons), f"a withdrawal that was accepted holds at once, not {said} {reasons}"

    stack.compose("up", "-d", "--wait", "--no-build", "worker-1", timeout_secs=BACK_SECS_MAX)
    until_allowed(dialer, OTHER, FAILOVER_SECS_MAX)
    until_denied(dialer, PERSON, "consent_withdrawn", FAILOVER_SECS_MAX)


def test_only_the_gateway_can_be_reached_and_only_from_this_machine(stack: Stack) -> None:
    shown = stack.compose("ps", "--format", "{{.Service}} {{.Ports}}").split("\n")
    published = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in shown if "->" in line}
    assert set(published) == {"gateway"}
    assert f"127.0.0.1:{stack.port}->8080" in published["gateway"]
    assert httpx.get(f"{stack.url}/healthz", timeout=10, trust_env=False).is_success


def test_the_program_runs_as_nobody_in_particular(stack: Stack) -> None:
    for service in ("gateway", "worker-2"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "10001"
        with pytest.raises(AssertionError, match="ermission denied"):
            stack.compose("exec", "-T", service, "cp", "/etc/hostname", "/opt/consentinel/src/topology.yaml")
