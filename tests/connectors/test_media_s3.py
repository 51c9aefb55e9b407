"""The S3 shelf on a real store: every version goes, what is held is said to be held, and trouble that passes is no failure."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.media import Evidence, S3Shelf, ShelfAway, ShelfImpossible, Store
from tests.parts.s3 import OWNER, OWNERS_SECRET, S3Server, s3_server

__all__ = ["s3_server"]  # a fixture
KEY = "2026/02/call 1+ü.wav"
URL_KEY = "2026/02/call%201%2B%C3%BC.wav"
BUCKETS = iter(f"recordings-{n}" for n in range(1_000))
UNTIL = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A bucket with versions."""
    name = next(BUCKETS)
    versioned(s3_server.client(), name)
    yield name


def versioned(client: Any, name: str, status: str = "Enabled") -> None:
    if status == "Enabled":
        client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})


def store(server: S3Server, *buckets: str, access: str = OWNER, secret: str = OWNERS_SECRET) -> S3Shelf:
    return S3Shelf(Store(endpoint=server.endpoint, buckets=buckets, access_key=access, secret_key=secret, sidecars=(".json",)))


def put(client: Any, bucket: str, key: str = KEY, count: int = 1) -> list[str]:
    """Write an object `count` times; returns the ids of its versions."""
    return [client.put_object(Bucket=bucket, Key=key, Body=b"RIFF").get("VersionId", "") for _ in range(count)]


def left(client: Any, bucket: str) -> list[tuple[str, bool]]:
    """(key, whether a delete marker) of all that the store still has of a bucket."""
    page = client.list_object_versions(Bucket=bucket)
    return sorted((v["Key"], name == "DeleteMarkers") for name in ("Versions", "DeleteMarkers") for v in page.get(name, ()))


def test_all_versions_and_delete_markers_go_with_the_sidecars_and_nothing_else(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    put(client, bucket, count=3)
    client.delete_object(Bucket=bucket, Key=KEY)
    put(client, bucket, count=2)
    client.delete_object(Bucket=bucket, Key=KEY)
    put(client, bucket, KEY + ".json", count=2)
    for other in (KEY + "x", KEY + ".json.bak", "2026/02/call 1+ü", "other.wav"):
        put(client, bucket, other)
    done = store(s3_server, bucket).delete(f"s3://{bucket}/{KEY}")
    assert done == Evidence(outcome="done", code="deleted", shelf="s3", removed=7, markers=2)
    assert left(client, bucket) == [(key, False) for key in ("2026/02/call 1+ü", KEY + ".json.bak", KEY + "x", "other.wav")]
    assert store(s3_server, bucket).delete(f"s3://{bucket}/{KEY}") == Evidence(outcome="done", code="missing", shelf="s3")


def test_more_than_one_page_has_goes_as_well(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.media.s3.PAGE_MAX", 2)
    client = s3_server.client()
    put(client, bucket, "many.wav", count=5)
    client.delete_object(Bucket=bucket, Key="many.wav")
    for _ in range(3):
        client.create_multipart_upload(Bucket=bucket, Key="many.wav")
    done = store(s3_server, bucket).delete(f"s3://{bucket}/many.wav")
    assert done == Evidence(outcome="done", code="deleted", shelf="s3", removed=5, markers=1, uploads=3)
    assert not left(client, bucket)


def test_an_object_that_only_has_a_delete_marker_is_found_though_it_looks_gone(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    put(client, bucket)
    client.delete_object(Bucket=bucket, Key=KEY)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    assert store(s3_server, bucket).delete(f"s3://{bucket}/{KEY}").removed == 1
    assert not left(client, bucket)


def test_buckets_that_never_had_versions_and_that_have_them_no_more(s3_server: S3Server, bucket: str) -> None:
    client, plain = s3_server.client(), next(BUCKETS)
    client.create_bucket(Bucket=plain)
    put(client, plain)
    put(client, bucket, count=2)
    versioned(client, bucket, "Suspended")
    put(client, bucket)
    shelf = store(s3_server, bucket, plain)
    assert [shelf.delete(f"s3://{name}/{KEY}").removed for name in (plain, bucket)] == [1, 3]
    assert left(client, plain) == left(client, bucket) == []


def test_the_stores_own_urls_are_addresses_too(s3_server: S3Server, bucket: str) -> None:
    client, shelf = s3_server.client(), store(s3_server, bucket)
    for uri in (f"{s3_server.endpoint}/{bucket}/{URL_KEY}", f"{s3_server.endpoint}/{bucket}/{URL_KEY}?X-Amz-Expires=60&x=1"):
        put(client, bucket)
        assert shelf.takes(uri) and shelf.delete(uri).code == "deleted"
    assert not left(client, bucket)
    inside = f"http://{bucket}.127.0.0.1:{s3_server.port}/{URL_KEY}"
    put(client, bucket)
    assert shelf.takes(inside) and shelf.delete(inside).code == "deleted"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("s3://{bucket}-x/calls/a.wav", "outside"), ("s3://{bucket}/a.wav", "outside"), ("s3://{bucket}/callsx/a.wav", "outside"),
        ("{endpoint}/{bucket}/a.wav", "outside"), ("s3://{bucket}/calls/" + "x" * 1_100, "outside"),
        ("s3://{bucket}/calls/../a.wav", "not-an-address"), ("{endpoint}/{bucket}/calls/%2e%2e/a.wav", "not-an-address"),
        ("s3://{bucket}/calls/", "not-an-address"), ("s3://{bucket}", "not-an-address"), ("{endpoint}", "not-an-address"),
        ("{endpoint}/{bucket}/calls/%ff.wav", "not-an-address"), ("s3://{bucket}/calls/a\n.wav", "not-an-address"),
        ("s3:{bucket}/calls/a", "not-an-address"),
    ],
)  # fmt: skip
def test_nothing_outside_of_its_buckets_and_prefixes_is_touched(s3_server: S3Server, bucket: str, uri: str, code: str) -> None:
    client = s3_server.client()
    put(client, bucket, "a.wav")
    refused = store(s3_server, f"{bucket}/calls").delete(uri.format(bucket=bucket, endpoint=s3_server.endpoint))
    assert (refused.outcome, refused.code) == ("failed", code)
    assert left(client, bucket) == [("a.wav", False)]


def test_urls_of_other_hosts_are_no_addresses_of_this_store(s3_server: S3Server, bucket: str) -> None:
    shelf = store(s3_server, bucket)
    port = s3_server.port
    for uri in (
        f"http://localhost:{port}/{bucket}/a", f"http://127.0.0.1:{port + 1}/{bucket}/a", f"http://127.0.0.1.example.com/{bucket}/a",
        f"http://127.0.0.1:{port}@example.com/{bucket}/a", f"ftp://127.0.0.1:{port}/{bucket}/a", "http://[::1/a", "/a.wav",
    ):  # fmt: skip
        assert not shelf.takes(uri), uri


def hold(client: Any, bucket: str, version: str, status: str) -> None:
    client.put_object_legal_hold(Bucket=bucket, Key="held.wav", VersionId=version, LegalHold={"Status": status})


def retain(client: Any, bucket: str, key: str, mode: str, until: datetime, **which: str) -> None:
    client.put_object_retention(Bucket=bucket, Key=key, Retention={"Mode": mode, "RetainUntilDate": until}, **which)


def test_unfinished_uploads_of_the_key_are_ended_and_others_are_not(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    for key in (KEY, KEY + ".bak"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"RIFF")
    done = store(s3_server, bucket).delete(f"s3://{bucket}/{KEY}")
    assert done == Evidence(outcome="done", code="missing", shelf="s3", uploads=1)
    assert [u["Key"] for u in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [KEY + ".bak"]


def test_what_the_store_holds_is_held_with_its_ground_and_the_rest_goes(s3_server: S3Server) -> None:
    client, name = s3_server.client(), next(BUCKETS)
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    held, locked, _ = put(client, name, "held.wav", 3)
    hold(client, name, held, "ON")
    retain(client, name, "held.wav", "COMPLIANCE", UNTIL, VersionId=locked)
    shelf, until_ms = store(s3_server, name), int(UNTIL.timestamp() * 1_000)
    answer = shelf.delete(f"s3://{name}/held.wav")
    assert answer == Evidence(outcome="held", code="legal-hold", shelf="s3", removed=1, left=2, until_ms=until_ms)
    hold(client, name, held, "OFF")
    answer = shelf.delete(f"s3://{name}/held.wav")
    assert answer == Evidence(outcome="held", code="object-lock", shelf="s3", removed=1, left=1, until_ms=until_ms)

    put(client, name, "soft.wav")
    retain(client, name, "soft.wav", "GOVERNANCE", datetime.now(UTC) + timedelta(days=1))
    assert shelf.delete(f"s3://{name}/soft.wav").outcome == "held", "a lock that we may bypass is a lock"


def test_who_may_not_is_denied_and_a_bucket_that_is_not_there_proves_nothing(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    put(client, bucket)
    s3_server.add_user("reader", "a reader's secret")
    shelf = store(s3_server, bucket, "never-made", access="reader", secret="a reader's secret")
    assert shelf.delete(f"s3://{bucket}/{KEY}") == Evidence(outcome="failed", code="denied", shelf="s3")
    policy = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": "reader", "Action": ["s3:ListBucketVersions", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket}"],
    }]}  # fmt: skip
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    assert shelf.delete(f"s3://{bucket}/{KEY}") == Evidence(outcome="failed", code="denied", shelf="s3", uploads=None, left=1)
    assert left(client, bucket) == [(KEY, False)]
    assert store(s3_server, "never-made").delete("s3://never-made/a.wav").code == "no-such-bucket"


def test_a_key_that_the_store_does_not_know_may_be_a_rotation(s3_server: S3Server, bucket: str) -> None:
    for access, secret in ((OWNER, "another secret"), ("nobody", OWNERS_SECRET)):
        with pytest.raises(ShelfAway, match="credentials"):
            store(s3_server, bucket, access=access, secret=secret).delete(f"s3://{bucket}/{KEY}")


@pytest.mark.slow
def test_a_store_that_dies_and_comes_back_is_away_and_then_does_it() -> None:
    with S3Server() as server:
        client, name = server.client(), next(BUCKETS)
        versioned(client, name)
        put(client, name, count=3)
        shelf = store(server, name)
        server.stop(kill=True, keep=True)
        for _ in range(2):
            with pytest.raises(ShelfAway, match="network") as away:
                shelf.delete(f"s3://{name}/{KEY}")
            assert away.value.__context__ is None, "what the client says names the bucket"
        server.start()
        assert shelf.delete(f"s3://{name}/{KEY}").removed == 3
        assert not left(client, name)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("s3_endpoint", "store.example"), ("s3_endpoint", "ftp://store.example"), ("s3_endpoint", "https://store.example/path"),
        ("s3_endpoint", "https://store.example:x"), ("s3_endpoint", "https://user:secret@store.example"), ("s3_buckets", ()),
        ("s3_buckets", ("",)), ("s3_buckets", ("/x",)), ("s3_buckets", ("Not a bucket",)), ("s3_buckets", ("recordings/../x",)),
        ("s3_ca_file", Path("/nowhere/ca.pem")),
    ],
)  # fmt: skip
def test_settings_that_could_not_work_are_refused_by_name(setting: str, value: object) -> None:
    given = {"endpoint": "https://store.example", "buckets": ("recordings",), "access_key": "a", "secret_key": "b"}
    with pytest.raises(ShelfImpossible, match=rf"media\.{setting}"):
        S3Shelf(Store(**{**given, setting.removeprefix("s3_"): value}))  # type: ignore[arg-type]
