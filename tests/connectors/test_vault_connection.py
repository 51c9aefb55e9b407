"""How a ring reaches Vault: who it says it is, whom it believes, and what becomes of everything that can go wrong."""
# ruff: noqa: F401, F811 -- fixtures are imported by their names

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import connectors.vault.client as client_module
import connectors.vault.identity as identity_module
from connectors.cli.faults import BadUsage
from connectors.cli.rings import ring_of
from connectors.cli.settings import KeySettings, load_settings
from connectors.vault import VaultConnection, VaultImpossible, VaultRing
from engine.filering import FileRing
from engine.keyring import RingDamaged, RingExposed, RingFault, RingMissing, RingUnavailable
from tests.parts.openbao import OpenBao, openbao, prefix, secret_file, started

URL = "https://vault.example.com:8200"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE_SECS_MAX", 0.3)
    monkeypatch.setattr(client_module, "ANSWER_SECS_MAX", 0.5)
    monkeypatch.setattr(client_module, "AWAY_SECS", 0.0)


@pytest.fixture(scope="module")
def tls_server() -> Iterator[OpenBao]:
    server = started(tls=True)
    yield server
    server.stop()


def approle(server: OpenBao, folder: Path, prefix: str, **role: Any) -> dict[str, Any]:
    """An AppRole with the documented policy, as settings name it."""
    server.call("POST", f"auth/approle/role/{prefix}", {"token_policies": [server.policy(prefix)], **role})
    role_id = server.call("GET", f"auth/approle/role/{prefix}/role-id")["role_id"]
    secret_id = server.call("POST", f"auth/approle/role/{prefix}/secret-id")["secret_id"]
    return {"role_id": role_id, "secret_id_file": secret_file(folder / f"{prefix}.secret", secret_id)}


def test_an_approle_needs_no_token_of_ours(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    ring = VaultRing(openbao.connection(tmp_path, prefix, **approle(openbao, tmp_path, prefix)), create=True)
    assert ring.kek("acme", 1)[0] == 1
    ring.close()


def test_an_approles_token_is_replaced_before_it_ends_and_when_it_was_revoked(
    openbao: OpenBao, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    given = approle(openbao, tmp_path, prefix, token_ttl="60s")
    ring = VaultRing(openbao.connection(tmp_path, prefix, **given), create=True)
    first = ring._vault._identity.token()
    assert ring._vault._identity.token() == first
    monkeypatch.setattr(identity_module, "monotonic", lambda: ring._vault._identity._until + 1)  # type: ignore[attr-defined]
    ring.refresh()
    second = ring._vault._identity.token()
    assert second != first
    monkeypatch.undo()
    openbao.call("POST", "auth/token/revoke", {"token": second})
    ring.refresh()
    assert ring._vault._identity.token() not in (first, second)
    ring.close()


def test_a_secret_that_vault_does_not_know_is_refused(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    given = approle(openbao, tmp_path, prefix)
    given["secret_id_file"].write_text("00000000-0000-0000-0000-000000000000")
    with pytest.raises(RingExposed):
        VaultRing(openbao.connection(tmp_path, prefix, **given), create=True)


def test_a_token_file_that_was_renewed_is_read_again(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    file = openbao.token(tmp_path, openbao.policy(prefix))
    ring = VaultRing(openbao.connection(tmp_path, prefix, token_file=file), create=True)
    openbao.call("POST", "auth/token/revoke", {"token": file.read_text().strip()})
    with pytest.raises(RingExposed):
        ring.refresh()
    openbao.token(tmp_path, openbao.policy(prefix))
    ring.refresh()
    ring.close()


def test_a_policy_that_allows_too_little_is_told(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    file = openbao.token(tmp_path, "default")
    with pytest.raises(RingExposed, match="policy"):
        VaultRing(openbao.connection(tmp_path, prefix, token_file=file), create=True)


def test_one_rings_token_does_not_reach_another_ring(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    ours = openbao.connection(tmp_path, prefix)
    VaultRing(ours, create=True).close()
    VaultRing(openbao.connection(tmp_path, f"{prefix}-b"), create=True).close()
    with pytest.raises(RingExposed):
        VaultRing(openbao.connection(tmp_path, f"other-{prefix}", token_file=ours.token_file), create=False)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o620, 0o601])
def test_a_secret_that_others_reach_is_refused(openbao: OpenBao, prefix: str, tmp_path: Path, mode: int) -> None:
    connection = openbao.connection(tmp_path, prefix)
    assert connection.token_file is not None
    connection.token_file.chmod(0o640)  # a group may read it
    VaultRing(connection, create=True).close()
    connection.token_file.chmod(mode)
    with pytest.raises(RingExposed):
        VaultRing(connection, create=True)


@pytest.mark.parametrize("text", ["", "  \n", "a\nb", "é", "x" * 70_000])
def test_a_file_that_holds_no_secret_is_told_as_such(tmp_path: Path, text: str) -> None:
    with pytest.raises(RingUnavailable):
        VaultRing(VaultConnection(url="http://127.0.0.1:1", token_file=secret_file(tmp_path / "token", text)), create=True)
    with pytest.raises(RingUnavailable):
        VaultRing(VaultConnection(url="http://127.0.0.1:1", token_file=tmp_path / "none"), create=True)


def test_only_the_named_authority_is_believed(tls_server: OpenBao, prefix: str, tmp_path: Path) -> None:
    connection = tls_server.connection(tmp_path, prefix)
    ring = VaultRing(connection, create=True)
    assert len(ring.pepper("acme")) == 32
    ring.close()
    with pytest.raises(RingUnavailable):
        VaultRing(VaultConnection(url=tls_server.url, token_file=connection.token_file, prefix=prefix), create=True)


def test_namespaces_have_rings_of_their_own(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    openbao.call("POST", f"sys/namespaces/{prefix}")
    openbao.call("POST", "sys/mounts/transit", {"type": "transit"}, namespace=prefix)
    openbao.call("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, namespace=prefix)
    root = openbao.token(tmp_path)
    outer = VaultRing(openbao.connection(tmp_path, prefix, token_file=root), create=True)
    with pytest.raises(RingMissing):
        VaultRing(openbao.connection(tmp_path, prefix, token_file=root, namespace=prefix), create=False)
    inner = VaultRing(openbao.connection(tmp_path, prefix, token_file=root, namespace=prefix), create=True)
    assert outer.deployment() != inner.deployment()
    outer.close()
    inner.close()


def test_a_vault_that_is_sealed_or_gone_stops_everything_but_peppers_and_then_goes_on(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    server = started()
    try:
        ring = VaultRing(server.connection(tmp_path, prefix), create=True)
        pepper, kek = ring.pepper("acme"), ring.kek("acme", 1)
        server.pause()
        ring._memory.fresh_until = 0.0
        with pytest.raises(RingUnavailable):
            ring.kek("acme", 1)
        assert ring.pepper("acme") == pepper
        server.resume()
        assert ring.kek("acme", 1) == kek
        server.call("PUT", "sys/seal")
        ring._memory.fresh_until = 0.0
        with pytest.raises(RingUnavailable, match="sealed"):
            ring.kek("acme", 1)
        server.stop()
        with pytest.raises(RingUnavailable):
            ring.refresh()
        ring.close()
    finally:
        server.stop()


def test_callers_in_a_row_do_not_each_wait_for_a_vault_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "AWAY_SECS", 60.0)
    ring, answers = answered_with(tmp_path, [200])
    answers[:] = [503]
    with pytest.raises(RingUnavailable):
        ring.refresh()
    before = ring._vault.calls
    with pytest.raises(RingUnavailable):
        ring.refresh()
    assert ring._vault.calls == before


def answered_with(tmp_path: Path, answers: list[int]) -> tuple[VaultRing, list[int]]:
    """A ring before a Vault that answers with these statuses, the last one for ever; the list may be changed."""
    page = '{"data": {"data": {"document": "{\\"format\\": 1, \\"deployment\\": \\"d\\"}"}, "metadata": {"version": 1}}}'

    def answer(_: httpx.Request) -> httpx.Response:
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        body = page if status == 200 else '{"errors": ["permission denied"]}'
        return httpx.Response(status, text=body, headers={"location": "https://elsewhere.example.com/v1/x"})

    connection = VaultConnection(url=URL, token_file=secret_file(tmp_path / "token", "t"))
    return VaultRing(connection, create=False, transport=httpx.MockTransport(answer)), answers


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (307, RingUnavailable), (400, RingDamaged), (401, RingExposed), (403, RingExposed), (404, RingMissing),
        (405, RingDamaged), (412, RingUnavailable), (429, RingUnavailable), (472, RingUnavailable), (473, RingUnavailable),
        (500, RingUnavailable), (501, RingUnavailable), (502, RingUnavailable), (503, RingUnavailable),
    ],
)  # fmt: skip
def test_every_status_becomes_a_fault_of_the_ring(tmp_path: Path, status: int, fault: type[RingFault]) -> None:
    ring, answers = answered_with(tmp_path, [200])
    answers[:] = [status]
    with pytest.raises(fault) as caught:
        ring.refresh()
    assert "denied" not in str(caught.value)


def test_our_token_goes_nowhere_that_an_answer_names(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.example.com/v1/x"})

    with pytest.raises(RingUnavailable, match="elsewhere"):
        VaultRing(
            VaultConnection(url=URL, token_file=secret_file(tmp_path / "token", "t")), create=False,
            transport=httpx.MockTransport(answer),
        )  # fmt: skip
    assert asked == ["vault.example.com"]


@pytest.mark.parametrize("status", [412, 429, 500, 503])
def test_what_passes_by_itself_is_waited_for(tmp_path: Path, status: int) -> None:
    ring, answers = answered_with(tmp_path, [200])
    answers[:] = [status, status, 200]
    ring.refresh()
    assert answers == [200]


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"data": 3}', '{"data": {"data": {"document": "?"}, "metadata": {}}}'])
def test_what_is_no_vault_is_no_ring(tmp_path: Path, body: str) -> None:
    connection = VaultConnection(url=URL, token_file=secret_file(tmp_path / "token", "t"))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    with pytest.raises((RingDamaged, RingMissing)):
        VaultRing(connection, create=False, transport=transport)


FILE = Path("token")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"url": "vault.example.com"}, "vault_url"),
        ({"url": "ftp://vault.example.com"}, "vault_url"),
        ({"url": "https://user:secret@vault.example.com"}, "vault_url"),
        ({"url": "http://vault.example.com:8200"}, "plain http"),
        ({"url": "http://127.0.0.1.example.com"}, "plain http"),
        ({"token_file": None}, "vault_token_file"),
        ({"role_id": "r", "secret_id_file": FILE}, "vault_role_id"),
        ({"token_file": None, "role_id": "r"}, "vault_secret_id_file"),
        ({"transit_mount": "/transit"}, "vault_transit_mount"),
        ({"kv_mount": "a/../b"}, "vault_kv_mount"),
        ({"prefix": "a/b"}, "vault_prefix"),
        ({"namespace": "a\nb"}, "vault_namespace"),
    ],
)
def test_settings_of_which_no_connection_can_be_made_name_what_is_wrong(given: dict[str, Any], names: str) -> None:
    with pytest.raises(VaultImpossible, match=names) as caught:
        VaultConnection(**{"url": URL, "token_file": FILE, **given})
    assert "secret@" not in str(caught.value)


def test_a_ca_file_that_holds_no_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for file in ("ca.pem", "none.pem"):
        with pytest.raises(VaultImpossible, match="vault_ca_file"):
            VaultRing(VaultConnection(url=URL, token_file=FILE, ca_file=tmp_path / file), create=True)


def test_the_settings_choose_the_ring(
    openbao: OpenBao, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = ring_of(load_settings().keys, tmp_path / "data", create=True)
    assert isinstance(file, FileRing)
    assert (tmp_path / "data.ring").is_file()
    connection = openbao.connection(tmp_path, prefix)
    monkeypatch.setenv("CONSENTINEL_KEYS__VAULT_URL", openbao.url)
    monkeypatch.setenv("CONSENTINEL_KEYS__VAULT_TOKEN_FILE", str(connection.token_file))
    monkeypatch.setenv("CONSENTINEL_KEYS__VAULT_PREFIX", prefix)
    vault = ring_of(load_settings().keys, tmp_path / "data", create=True)
    assert isinstance(vault, VaultRing)
    assert vault.deployment() != file.deployment()
    vault.close()
    file.close()


@pytest.mark.parametrize(
    "keys",
    [
        KeySettings(vault_token_file=FILE),
        KeySettings(vault_url=URL, vault_token_file=FILE, ring=Path("data.ring")),
        KeySettings(vault_url=URL),
    ],
)
def test_half_a_choice_of_ring_is_bad_usage(keys: KeySettings, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"keys\.vault"):
        ring_of(keys, tmp_path / "data", create=True)
