"""What the address of an object means: `s3://bucket/key`, or a URL of the one endpoint that is configured.

The key of an `s3:` address is taken as it stands; in a URL it is percent-encoded, and a query (of a pre-signed URL) is left out.
Only configured buckets and prefixes are places; whatever else an address says is refused before the store is asked.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from connectors.media.shelf import Refusal, ShelfImpossible

SCHEME: Final = "s3:"
KEY_BYTES_MAX: Final = 1_024  # of S3
PORTS: Final = {"http": 80, "https": 443}
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

Object = tuple[str, str]  # bucket and key


class Addresses:
    """The addresses of one store. `buckets`: `BUCKET` or `BUCKET/PREFIX`; a prefix is a folder."""

    def __init__(self, endpoint: str, buckets: Sequence[str]) -> None:
        """Raise `ShelfImpossible`."""
        self._endpoint = _endpoint_of(endpoint)
        self._places = [_bucket_of(text) for text in buckets]
        if not self._places:
            raise ShelfImpossible("media.s3_buckets: name at least one, or nothing can be deleted")

    def takes(self, uri: str) -> bool:
        """Whether it is one, wherever it leads."""
        if uri[: len(SCHEME)].lower() == SCHEME:
            return True
        split = _split(uri)
        return split is not None and self._bucket_in(split) is not None

    def place(self, uri: str) -> Object:
        """Bucket and key of an address that `takes` has taken. Raises `Refusal`."""
        if any(ord(c) < 0x20 or ord(c) == 0x7F for c in uri):  # `urlsplit` would leave some of them out
            raise Refusal("not-an-address")
        if uri[: len(SCHEME)].lower() == SCHEME:
            if uri[len(SCHEME) : len(SCHEME) + 2] != "//":
                raise Refusal("not-an-address")
            bucket, _, key = uri[len(SCHEME) + 2 :].partition("/")
        else:
            split = urlsplit(uri)
            bucket, key = self._bucket_in(split) or "", _unquoted(split.path).removeprefix("/")
            if not bucket:
                bucket, _, key = key.partition("/")
        # Stores that lie on a file system may take dots for a way out.
        if not bucket or not key or key.endswith("/") or {".", ".."} & set(key.split("/")) or "\0" in key:
            raise Refusal("not-an-address")
        if len(key.encode()) > KEY_BYTES_MAX or not any(bucket == b and key.startswith(p) for b, p in self._places):
            raise Refusal("outside")
        return bucket, key

    def _bucket_in(self, split: SplitResult) -> str | None:
        """The bucket in the host of a URL of our endpoint, "" when it stands in the path; None: it is not our endpoint's."""
        ours = self._endpoint
        if split.scheme not in PORTS or split.hostname is None or _port(split) != _port(ours):
            return None
        if split.hostname == ours.hostname:
            return ""
        bucket, dot, rest = split.hostname.partition(f".{ours.hostname}")
        return bucket if dot and not rest and bucket else None


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    raise Refusal("not-an-address")


def _endpoint_of(text: str) -> SplitResult:
    split = _split(text)
    if split is None or split.scheme not in PORTS or not split.hostname or split.path.strip("/") or split.query or "@" in text:
        raise ShelfImpossible("media.s3_endpoint: is https://host or http://host:port")
    return split


def _split(text: str) -> SplitResult | None:
    try:
        split = urlsplit(text)
        _port(split)
        return split
    except ValueError:
        return None


def _port(split: SplitResult) -> int | None:
    """The port. Raises ValueError."""
    return split.port if split.port is not None else PORTS.get(split.scheme)


def _bucket_of(text: str) -> tuple[str, str]:
    bucket, slash, prefix = text.partition("/")
    if not BUCKET.fullmatch(bucket) or prefix.startswith("/") or {".", ".."} & set(prefix.split("/")):
        raise ShelfImpossible("media.s3_buckets: each is BUCKET or BUCKET/PREFIX")
    return bucket, prefix.rstrip("/") + "/" if slash and prefix else ""
