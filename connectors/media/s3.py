"""A shelf in a store that speaks S3: the object goes with all its versions, delete markers and unfinished uploads.

Only one endpoint, and only configured buckets and prefixes of it. Versions go before delete markers, or the object would be back
in between. What was removed is looked for again: as long as something new turns up, nothing is done. A version that will not go
is asked why: a legal hold or a lock of the store holds it; nothing here ever bypasses one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from connectors.media.addresses import Addresses, Object
from connectors.media.shelf import Code, Evidence, Refusal, ShelfAway, ShelfImpossible, checked_suffixes, sidecars_of

PAGE_MAX: Final = 1_000  # entries of one listing or one DeleteObjects
ROUNDS_MAX: Final = 3
UPLOAD_PAGES_MAX: Final = 100
CONNECT_SECS_MAX, ANSWER_SECS_MAX, TRIES = 5, 30, 1  # whoever calls tries again
# What a store says that may be otherwise a moment, or a rotation of credentials, later.
BUSY: Final = {
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestTimeout", "OperationAborted", "InternalError",
    "ServiceUnavailable",
}  # fmt: skip
CREDENTIALS: Final = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
GONE: Final = {"NoSuchKey", "NoSuchVersion"}


class Store(msgspec.Struct, frozen=True):
    """Where the store is and what of it may be touched. `buckets`: `BUCKET` or `BUCKET/PREFIX`; a prefix is a folder."""

    endpoint: str
    buckets: tuple[str, ...]
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    ca_file: Path | None = None
    sidecars: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Store()"


class _Tally(msgspec.Struct):
    """What has been done so far for one recording."""

    found: bool = False
    removed: int = 0
    markers: int = 0
    uploads: int | None = 0
    kept: dict[tuple[str, str], Code] = {}  # (key, version) → why it is still there
    until_ms: int | None = None


class S3Shelf:
    """Deletes objects of one store."""

    def __init__(self, store: Store) -> None:
        """Raise `ShelfImpossible`."""
        self._addresses = Addresses(store.endpoint, store.buckets)
        self._suffixes = checked_suffixes(store.sidecars)
        self._client = _client_of(store)

    def takes(self, uri: str) -> bool:
        """See `Shelf`: `s3://bucket/key`, or a URL of the configured endpoint."""
        return self._addresses.takes(uri)

    def delete(self, uri: str) -> Evidence:
        """See `Shelf`."""
        tally = _Tally()
        try:
            bucket, key = self._addresses.place(uri)
            for name in (*sidecars_of(key, self._suffixes), key):
                tally.found |= self._clear((bucket, name), tally) and name == key
            return _evidence(tally)
        except Refusal as refusal:
            return Evidence(outcome="failed", code=refusal.code, shelf="s3", removed=tally.removed, markers=tally.markers)

    def _clear(self, at: Object, tally: _Tally) -> bool:
        """Remove everything of one key that can be removed; whether there was anything. Raises `Refusal` and `ShelfAway`."""
        found = False
        self._end_uploads(at, tally)
        for _ in range(ROUNDS_MAX):
            there = [one for one in self._versions(at) if (at[1], one[0]) not in tally.kept]
            if not there:
                return found
            found = True
            there.sort(key=lambda one: one[1])
            for start in range(0, len(there), PAGE_MAX):
                self._remove(at, there[start : start + PAGE_MAX], tally)
        raise ShelfAway("unsettled")

    def _versions(self, at: Object) -> Iterator[tuple[str, bool]]:
        """(version, whether it is a delete marker) of everything that has exactly this key."""
        bucket, key = at
        paginator = self._client.get_paginator("list_object_versions")
        pages = iter(paginator.paginate(Bucket=bucket, Prefix=key, PaginationConfig={"PageSize": PAGE_MAX}))
        while (page := _asked(lambda: next(pages, None))) is not None:
            listed = [(v, False) for v in page.get("Versions", ())] + [(v, True) for v in page.get("DeleteMarkers", ())]
            yield from ((str(v["VersionId"]), marker) for v, marker in listed if v["Key"] == key)
            if any(v["Key"] > key for v, _ in listed):
                return  # keys come in order: behind this page there is nothing of ours

    def _end_uploads(self, at: Object, tally: _Tally) -> None:
        """End unfinished uploads of the key: their parts are stored as well.

        Always the first page, until there are none: what was ended is in no list any more, and is no mark to go on from.
        """
        bucket, key = at
        try:
            for _ in range(UPLOAD_PAGES_MAX):
                page = _asked(lambda: self._client.list_multipart_uploads(Bucket=bucket, Prefix=key, MaxUploads=PAGE_MAX))
                ours = [upload["UploadId"] for upload in page.get("Uploads", ()) if upload["Key"] == key]
                for upload in ours:
                    self._abort(at, upload)
                tally.uploads = (tally.uploads or 0) + len(ours)
                if not ours:
                    return
        except Refusal:
            tally.uploads = None

    def _abort(self, at: Object, upload: str) -> None:
        _asked(lambda: self._client.abort_multipart_upload(Bucket=at[0], Key=at[1], UploadId=upload))

    def _remove(self, at: Object, there: Sequence[tuple[str, bool]], tally: _Tally) -> None:
        bucket, key = at
        which = {"Objects": [{"Key": key, "VersionId": version} for version, _ in there], "Quiet": True}
        answer = _asked(lambda: self._client.delete_objects(Bucket=bucket, Delete=which))
        faults = {str(e.get("VersionId", "null")): str(e.get("Code", "")) for e in answer.get("Errors", ())}
        for version, marker in there:
            said = faults.get(version)
            if said is None or said in GONE:
                tally.removed += not marker
                tally.markers += marker
            elif said in BUSY:
                raise ShelfAway("busy")
            else:
                tally.kept[key, version] = self._why(at, version, tally)

    def _why(self, at: Object, version: str, tally: _Tally) -> Code:
        """Why a version did not go. The store's own words for it differ from store to store, so its locks are asked."""
        which = {"Bucket": at[0], "Key": at[1], "VersionId": version}
        hold = _allowed(lambda: self._client.get_object_legal_hold(**which)).get("LegalHold", {})
        until = _allowed(lambda: self._client.get_object_retention(**which)).get("Retention", {}).get("RetainUntilDate")
        locked = isinstance(until, datetime) and until > datetime.now(UTC)
        if locked:
            tally.until_ms = max(tally.until_ms or 0, int(until.timestamp() * 1_000))
        return "legal-hold" if hold.get("Status") == "ON" else "object-lock" if locked else "denied"


def _asked(ask: Callable[[], Any]) -> Any:
    """What the store answers. Raises `Refusal`, and `ShelfAway` for what may pass; neither has a context with the key."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError  # noqa: PLC0415

    fault: Exception
    try:
        return ask()
    except ClientError as said:
        fault = _meaning(said.response)
    except ParamValidationError:
        fault = Refusal("refused")
    except (BotoCoreError, OSError):
        fault = ShelfAway("network")
    raise fault


def _allowed(ask: Callable[[], Any]) -> Any:
    """The same; nothing when the store says no: it has no locks, or not for us to see."""
    try:
        return _asked(ask)
    except Refusal:
        return {}


def _evidence(tally: _Tally) -> Evidence:
    """What all that amounts to. What is held is held only if nothing was kept without a ground."""
    code: Code = "deleted" if tally.found else "missing"
    worst: tuple[Code, ...] = ("object-lock", "legal-hold", "denied")
    for kept in worst:
        if kept in tally.kept.values():
            code = kept
    return Evidence(
        outcome="done" if not tally.kept else "failed" if code == "denied" else "held", code=code, shelf="s3",
        removed=tally.removed, markers=tally.markers, uploads=tally.uploads, left=len(tally.kept), until_ms=tally.until_ms,
    )  # fmt: skip


def _meaning(response: Mapping[str, Any]) -> Exception:
    """What a refusal of the store means: `ShelfAway` for what may pass, else `Refusal`."""
    said = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if said in CREDENTIALS:
        return ShelfAway("credentials")
    if said in BUSY or status == 429 or (status >= 500 and status != 501):  # 501: it never will
        return ShelfAway("busy")
    if said == "NoSuchBucket":
        return Refusal("no-such-bucket")  # a name that is wrong proves nothing of what was in it
    return Refusal("denied" if status == 403 else "refused")


def _client_of(store: Store) -> Any:
    try:
        import boto3  # noqa: PLC0415 -- only who has such a store loads it
        from botocore.config import Config  # noqa: PLC0415
    except ImportError:
        raise ShelfImpossible("media.s3_endpoint: the package boto3 is not installed") from None
    if store.ca_file is not None and not store.ca_file.is_file():
        raise ShelfImpossible("media.s3_ca_file: there is no such file")
    for name in ("boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their lines quote URLs
    # Checksums only where S3 demands them: stores that are older than these refuse them.
    config = Config(
        connect_timeout=CONNECT_SECS_MAX, read_timeout=ANSWER_SECS_MAX, proxies={}, s3={"addressing_style": "path"},
        retries={"mode": "standard", "total_max_attempts": TRIES}, request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )  # fmt: skip
    return boto3.session.Session().client(
        "s3", endpoint_url=store.endpoint, region_name=store.region, aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key, verify=None if store.ca_file is None else str(store.ca_file), config=config,
    )  # fmt: skip
