"""A schema registry that speaks Confluent's API: what is registered under an id, and the registration of our own schemas.

    GET  /schemas/ids/{id}                                {"schema": text, "schemaType"?, "references"?}; 404 with 40403: none
    POST /compatibility/subjects/{subject}/versions/latest    {"is_compatible": bool}; 404: a subject that is not there yet
    POST /subjects/{subject}                              200: registered under the subject; 404: not
    POST /subjects/{subject}/versions                     {"id": number}; 409: not compatible; 422: no schema

Only an answer that says so in the API's own words means that a schema is not there. Everything else, a proxy's 404 and a refused
password included, is `RegistryAway`: nobody has been told anything about the schema, so nothing may follow from it.

A registry's own client is not used: it has its own retries and caches, and the engine's loop must know how long it waits.
"""

import ssl
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import quote

import httpx
import msgspec

from engine.outside import RegistryAway

ANSWER_SECS_MAX: Final = 2.0  # for a connection, and between two parts of an answer: the engine's loop waits for it
WHOLE_SECS_MAX: Final = 4.0
ANSWER_BYTES_MAX: Final = 2 << 20
MEDIA: Final = "application/vnd.schemaregistry.v1+json"
SCHEMA_NOT_FOUND: Final = 40403
NOT_FOUND: Final = frozenset({SCHEMA_NOT_FOUND, 40401, 40402})  # of a schema, a subject, a version
NOT_COMPATIBLE: Final = frozenset({409, 422})


class RegistryImpossible(Exception):
    """Settings of which no client can be made; the text names the setting, never its value."""


class _Found(msgspec.Struct):
    schema: str
    schemaType: str = "AVRO"  # the API's own word
    references: list[Any] = []


class _Verdict(msgspec.Struct):
    is_compatible: bool


class _Fault(msgspec.Struct):
    error_code: int = 0


Standing = Literal["registered", "missing", "incompatible"]


class Registry:
    """One registry. Every call raises `RegistryAway`, and takes seconds at most. One thread uses it."""

    def __init__(self, url: str, *, ca_file: Path | None = None, transport: httpx.BaseTransport | None = None) -> None:
        """Raise `RegistryImpossible` when it could not work. The URL may hold a user and a password."""
        try:
            found = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL:
            found = httpx.URL("")
        if found.scheme not in ("http", "https") or not found.host:
            raise RegistryImpossible("kafka.registry_url: is http://host[:port][/path] or https://…")
        try:
            trust = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise RegistryImpossible("kafka.registry_ca_file: the file cannot be read, or holds no certificate") from None
        self._http = httpx.Client(
            base_url=found, timeout=ANSWER_SECS_MAX, transport=transport, trust_env=False, verify=trust,
            headers={"accept": MEDIA, "content-type": MEDIA},
        )  # fmt: skip

    def schema(self, id_: int) -> str | None:
        """The Avro schema that is registered under an id; None: there is none, or it is not one Avro schema by itself."""
        status, body = self._ask("GET", f"schemas/ids/{id_}")
        if status == httpx.codes.NOT_FOUND and self._code(body) == SCHEMA_NOT_FOUND:
            return None
        found = self._read(status, body, _Found)
        return found.schema if found.schemaType == "AVRO" and not found.references else None

    def standing(self, subject: str, schema: str) -> Standing:
        """How a schema stands under a subject, and whether it could be registered there."""
        document = {"schema": schema}
        status, body = self._ask("POST", f"subjects/{quote(subject, safe='')}", document)
        if not self._is_missing(status, body):
            self._read(status, body, _Found)
            return "registered"
        status, body = self._ask("POST", f"compatibility/subjects/{quote(subject, safe='')}/versions/latest", document)
        if self._is_missing(status, body):
            return "missing"
        return "missing" if self._read(status, body, _Verdict).is_compatible else "incompatible"

    def register(self, subject: str, schema: str) -> bool:
        """Register a schema, or find it registered; False: the registry does not take it."""
        status, _ = self._ask("POST", f"subjects/{quote(subject, safe='')}/versions", {"schema": schema})
        if status in NOT_COMPATIBLE:
            return False
        if status != httpx.codes.OK:
            raise RegistryAway(f"the schema registry answers {status}")
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def __repr__(self) -> str:
        return "Registry()"  # its URL may hold a password

    def _ask(self, method: str, path: str, document: dict[str, str] | None = None) -> tuple[int, bytes]:
        content = None if document is None else msgspec.json.encode(document)
        body, until = b"", monotonic() + WHOLE_SECS_MAX
        try:
            with self._http.stream(method, path, content=content) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX or monotonic() > until:
                        raise RegistryAway("the schema registry answers too slowly, or too much")
        except httpx.HTTPError as fault:
            raise RegistryAway(f"the schema registry does not answer: {type(fault).__name__}") from None
        return answer.status_code, body

    @classmethod
    def _is_missing(cls, status: int, body: bytes) -> bool:
        return status == httpx.codes.NOT_FOUND and cls._code(body) in NOT_FOUND

    @staticmethod
    def _code(body: bytes) -> int:
        try:
            return msgspec.json.decode(body, type=_Fault).error_code
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return 0

    @staticmethod
    def _read(status: int, body: bytes, kind: type[Any]) -> Any:
        if status == httpx.codes.OK:
            try:
                return msgspec.json.decode(body, type=kind)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass
            raise RegistryAway("the schema registry answers with something else")
        raise RegistryAway(f"the schema registry answers {status}")
