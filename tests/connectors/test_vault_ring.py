"""The key ring in Vault, on a real OpenBao: what is destroyed there, what it costs, what others do at the same time."""
# ruff: noqa: F401, F811 -- fixtures are imported by their names

import logging
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import connectors.vault.memory as memory_module
from connectors.vault import VaultConnection, VaultRing
from connectors.vault.book import CHANGING_SECS_MAX
from connectors.vault.memory import slug_of
from engine.keyring import KeyInUse, RingDamaged, RingMissing
from tests.parts.openbao import OpenBao, Opens, connection, openbao, opened, prefix

NOW_MS = 1_800_000_000_000


def calls_of(ring: VaultRing, ask: Callable[[], object]) -> int:
    before = ring._vault.calls
    ask()
    return ring._vault.calls - before


def kek_name(prefix: str, shard: int) -> str:
    return f"{prefix}-kek-{slug_of('acme')}-{shard:04}"


def answer_to(server: OpenBao, method: str, path: str, body: dict[str, object] | None = None) -> httpx.Response:
    headers = {"x-vault-token": server.root}
    return httpx.request(method, f"{server.url}/v1/{path}", json=body, headers=headers, trust_env=False)


def test_a_destroyed_epoch_cannot_be_had_from_vault_by_anybody(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    ring.kek("acme", 7)
    ring.rotate_kek("acme", 7, after=1)
    name = kek_name(prefix, 7)
    assert answer_to(openbao, "GET", f"transit/export/encryption-key/{name}/1").status_code == 200
    ring.destroy_kek("acme", 7, 1)
    assert answer_to(openbao, "GET", f"transit/export/encryption-key/{name}/1").status_code == 400
    assert answer_to(openbao, "POST", f"transit/keys/{name}/config", {"min_decryption_version": 1}).status_code == 400
    assert answer_to(openbao, "POST", f"transit/keys/{name}/trim", {"min_available_version": 1}).status_code == 400
    assert not answer_to(openbao, "GET", f"transit/backup/{name}").is_success  # a key that can be backed up can come back


def test_vault_itself_refuses_to_destroy_what_is_minted_under(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    ring.rotate_kek("acme", 7, after=1)
    assert answer_to(openbao, "POST", f"transit/keys/{kek_name(prefix, 7)}/trim", {"min_available_version": 3}).status_code == 400


def test_a_destroyed_raw_key_is_deleted_from_vault(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    number, _ = ring.raw_key("raw", NOW_MS)
    path = f"transit/export/encryption-key/{prefix}-raw-{number}"
    assert answer_to(openbao, "GET", path).status_code == 200
    ring.close_raw("raw", NOW_MS)
    ring.destroy_raw([number])
    assert answer_to(openbao, "GET", path).status_code == 404


def test_raw_keys_that_a_dead_process_was_deleting_are_deleted(
    opened: Opens, openbao: OpenBao, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    ring = opened()
    number, _ = ring.raw_key("raw", NOW_MS)
    ring.close_raw("raw", NOW_MS)
    monkeypatch.setattr(ring._raw, "_bury", lambda: None)
    ring.destroy_raw([number])
    assert opened().raw_key_by_id(number) is None
    assert answer_to(openbao, "GET", f"transit/export/encryption-key/{prefix}-raw-{number}").status_code == 404


def test_no_document_holds_a_key(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    ring.rotate_kek("acme", 7, after=1)
    ring.raw_key("raw", NOW_MS)
    ring.ledger_append(b"entry")
    found = openbao.call("GET", f"secret/metadata/{prefix}?list=true")["keys"]
    assert sorted(found) == ["controllers/", "epochs/", "ledger/", "ring"]
    texts = [openbao.call("GET", f"secret/data/{prefix}/{name}")["data"]["document"] for name in (
        "ring", f"controllers/{slug_of('acme')}", f"epochs/{slug_of('acme')}",
    )]  # fmt: skip
    for key in dict(ring.all_keys_alive()).values():
        assert not any(key.hex() in text or b64encode(key).decode() in text for text in texts)


def test_the_hot_path_makes_no_call(opened: Opens) -> None:
    ring = opened()

    def ask() -> list[object]:
        return [
            ring.pepper("acme"), ring.kek("acme", 5), ring.kek_at("acme", 5, 1), ring.raw_key("raw", NOW_MS),
            ring.raw_key_by_id(1), ring.kek_at("acme", 5, 0),
        ]  # fmt: skip

    first = ask()
    ring.refresh()
    assert calls_of(ring, lambda: [ask() for _ in range(50)]) == 0
    assert ask() == first


def test_a_first_use_costs_what_the_docs_say(opened: Opens, connection: VaultConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    opened().raw_key("raw", NOW_MS)
    ring = opened()
    monkeypatch.setattr(memory_module, "STALE_SECS_MAX", 60)
    ring.refresh()
    assert calls_of(ring, lambda: ring.pepper("acme")) == 5  # once in the controller's life
    assert calls_of(ring, lambda: ring.kek("acme", 1)) == 3  # once in the shard's life
    for shard in range(2, 6):
        ring.kek("acme", shard)
    again = opened()
    again.refresh()
    assert calls_of(again, lambda: again.pepper("acme")) == 2
    assert calls_of(again, lambda: [again.kek("acme", shard) for shard in range(1, 6)]) == 5
    assert calls_of(again, lambda: again.raw_key("raw", NOW_MS)) == 2
    assert calls_of(again, lambda: again.raw_key("raw", NOW_MS + 3_600_000)) == 4
    assert calls_of(again, lambda: again.epochs("acme")) == 2

    def together(change: Callable[[int], object]) -> None:
        with again.together():
            for shard in range(1, 6):
                change(shard)

    assert calls_of(again, lambda: together(lambda shard: again.rotate_kek("acme", shard, after=1))) == 5 * 4 + 6
    assert calls_of(again, lambda: together(lambda shard: again.destroy_kek("acme", shard, 1))) == 5 * 3 + 6
    assert calls_of(again, lambda: again.epochs("acme")) == 2


def test_one_call_a_second_sees_what_others_changed(opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = opened()
    ring.kek("acme", 1)
    now = memory_module.monotonic()
    monkeypatch.setattr(memory_module, "monotonic", lambda: now)
    ring.refresh()
    assert calls_of(ring, lambda: ring.kek("acme", 1)) == 0
    now += 1
    assert calls_of(ring, lambda: [ring.kek("acme", 1) for _ in range(20)]) == 1


def test_a_rotation_elsewhere_costs_others_one_block_of_shards(opened: Opens) -> None:
    ring, other = opened(), opened()
    for shard in (0, 1, 64, 128):
        ring.kek("acme", shard)
    other.rotate_kek("acme", 1, after=1)
    ring.refresh()
    assert {shard for _, shard in ring._memory.shards} == {64, 128}
    ring.refresh()
    ring.kek("acme", 0)
    ring.refresh()
    assert {shard for _, shard in ring._memory.shards} == {0, 64, 128}  # it is over, and kept again


def test_a_shard_that_changes_while_it_is_read_is_not_kept(opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, other = opened(), opened()
    ring.kek("acme", 1)
    other.kek("acme", 2)
    ring.refresh()
    read = other._keks.read

    def slow(slug: str, shard: int) -> object:
        found = read(slug, shard)
        ring.rotate_kek("acme", 1, after=1)
        ring.destroy_kek("acme", 1, 1)
        other.refresh()
        return found

    monkeypatch.setattr(other._keks, "read", slow)
    assert other.kek("acme", 1)[0] == 1
    monkeypatch.undo()
    assert other.kek("acme", 1)[0] == 2


def test_processes_that_rotate_at_once_rotate_once(opened: Opens) -> None:
    rings = [opened() for _ in range(5)]
    first = rings[0].kek("acme", 1)
    with ThreadPoolExecutor(5) as pool:
        for epoch in (1, 2, 3):
            assert list(pool.map(lambda ring, epoch=epoch: ring.rotate_kek("acme", 1, epoch), rings)) == [epoch + 1] * 5
    for ring in rings:
        ring.refresh()
    assert len({ring.kek("acme", 1) for ring in rings}) == 1
    assert rings[0].kek("acme", 1)[0] == 4
    assert rings[0].kek_at("acme", 1, 1) == first[1]
    assert rings[0].epochs("acme") == [(1, 1, False), (1, 2, False), (1, 3, False), (1, 4, True)]


def test_nobody_mints_under_what_an_administrator_rotated_in_vault(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    first, pepper = ring.kek("acme", 1), ring.pepper("acme")
    for name in (kek_name(prefix, 1), f"{prefix}-pepper-{slug_of('acme')}"):
        openbao.call("POST", f"transit/keys/{name}/rotate")
    other = opened()
    assert (other.kek("acme", 1), other.pepper("acme")) == (first, pepper)
    assert other.rotate_kek("acme", 1, after=1) == 2


def test_epochs_are_destroyed_from_the_oldest_on(opened: Opens) -> None:
    ring = opened()
    ring.rotate_kek("acme", 1, after=1)
    ring.rotate_kek("acme", 1, after=2)
    with pytest.raises(KeyInUse):
        ring.destroy_kek("acme", 1, 2)
    assert ring.kek_at("acme", 1, 2) is not None
    for shard, epoch, minting in ring.epochs("acme"):
        if not minting:
            ring.destroy_kek("acme", shard, epoch)
    assert ring.epochs("acme") == [(1, 3, True)]


def test_what_a_dead_process_left_noted_is_cleared_in_time(opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, other = opened(), opened()
    ring.kek("acme", 1)
    page = ring._memory.change(lambda page: page.begun("dead", (slug_of("acme"), 0)))
    ring.kek("acme", 1)
    other.rotate_kek("acme", 70, after=1)
    ring.refresh()
    assert ("acme", 1) not in ring._memory.shards
    noted = next(iter(page.changing.values()))[2]
    monkeypatch.setattr("connectors.vault.book.time", lambda: noted + CHANGING_SECS_MAX + 1)
    other.rotate_kek("acme", 71, after=1)
    ring.refresh()
    assert ring._memory.page.changing == {}
    ring.kek("acme", 1)
    ring.refresh()
    assert ("acme", 1) in ring._memory.shards


def test_a_ring_that_was_deleted_in_vault_is_not_begun_again(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    openbao.call("DELETE", f"secret/data/{prefix}/ring")
    for ask in (opened, ring.refresh):
        with pytest.raises(RingDamaged):
            ask()
    openbao.call("POST", f"secret/undelete/{prefix}/ring", {"versions": [1]})
    ring.refresh()


def test_a_lost_pepper_is_never_drawn_again(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    opened().pepper("acme")
    name = f"transit/keys/{prefix}-pepper-{slug_of('acme')}"
    openbao.call("POST", f"{name}/config", {"deletion_allowed": True})
    openbao.call("DELETE", name)
    with pytest.raises(RingDamaged):
        opened().pepper("acme")


def test_a_ledger_that_was_cut_is_seen(opened: Opens, openbao: OpenBao, prefix: str) -> None:
    ring = opened()
    for n in range(70):
        ring.ledger_append(f"{n}".encode())
    openbao.call("DELETE", f"secret/metadata/{prefix}/ledger/000000002")
    with pytest.raises(RingDamaged):
        ring.ledger_mark()
    openbao.call("DELETE", f"secret/metadata/{prefix}/ledger/000000000")
    with pytest.raises(RingDamaged):
        opened().ledger_since(0)


def test_a_mount_that_is_not_there_or_of_another_kind_is_no_ring(openbao: OpenBao, prefix: str, tmp_path: Path) -> None:
    root = openbao.token(tmp_path)
    openbao.call("POST", f"sys/mounts/{prefix}-old", {"type": "kv", "options": {"version": "1"}})
    openbao.call("POST", f"sys/mounts/{prefix}-brief", {"type": "kv", "options": {"version": "2"}})
    openbao.call("POST", f"{prefix}-brief/config", {"delete_version_after": "1h"})
    for given, fault, says in (
        ({"transit_mount": "nowhere"}, RingMissing, "mount"),
        ({"kv_mount": "nowhere"}, RingMissing, "mount"),
        ({"kv_mount": f"{prefix}-old"}, RingDamaged, "version 2"),
        ({"kv_mount": f"{prefix}-brief"}, Exception, "delete_version_after"),
    ):
        with pytest.raises(fault, match=says):
            VaultRing(openbao.connection(tmp_path, prefix, token_file=root, **given), create=True)


def test_neither_tokens_nor_keys_nor_names_are_told(opened: Opens, openbao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ring = opened()
        keys = [ring.kek("Acme Ltd", 1)[1], ring.pepper("Acme Ltd"), ring.signing_seed()]
        ring.ledger_append(b"entry")
    told = caplog.text + repr(ring) + repr(ring._vault)
    assert openbao.root not in told
    assert "Acme" not in told
    assert not any(key.hex() in told or repr(key) in told for key in keys)
