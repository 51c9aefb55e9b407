"""How to reach a Kafka cluster and work on it: one value, from which every client's configuration is made.

Secrets are in it, so it never shows them: not in its `repr`, not in a fault's text.
"""

import re
import socket
import ssl
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from engine.kafka.faults import SettingImpossible

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
GroupProtocol = Literal["classic", "consumer"]

PREFIX: Final = re.compile(r"(?!__)[a-zA-Z0-9._-]{0,100}")  # Kafka's own topics begin with two underscores
WORKER: Final = re.compile(r"[a-zA-Z0-9._-]{1,64}")
SECRET_BYTES_MAX = 65_536
RECORD_BYTES_MAX = 16 << 20  # the largest record is one party's view of a long conversation; by default it is less than an event
SESSION_TIMEOUT_MS = 6_000  # how long a killed worker's units wait for another: the broker allows no less by default
COMMIT_INTERVAL_MS = 100
TRANSACTION_TIMEOUT_MS = 10_000  # a dead owner's open transaction blocks its units no longer than this
TOO_SHORT_MS, TOO_LONG_MS = 10, 900_000  # the broker's own bound for a transaction


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are and whom we trust. A secret is given itself or as a file, which is read again for every new client."""

    security_protocol: Protocol = "PLAINTEXT"
    sasl_mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = None
    key_password_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises `SettingImpossible` with the setting's name."""
        if self.sasl:
            for setting, given in (("sasl_mechanism", self.sasl_mechanism), ("username", self.username)):
                if given is None:
                    raise SettingImpossible(setting, f"is needed with security_protocol {self.security_protocol}")
            if self.password is None and self.password_file is None:
                raise SettingImpossible("password", f"or password_file is needed with security_protocol {self.security_protocol}")
        for setting in ("sasl_mechanism", "username", "password", "password_file"):
            if not self.sasl and getattr(self, setting) is not None:
                raise SettingImpossible(setting, f"means nothing with security_protocol {self.security_protocol}")
        for setting in ("ca_file", "cert_file", "key_file", "key_password", "key_password_file"):
            if not self.tls and getattr(self, setting) is not None:
                raise SettingImpossible(setting, f"means nothing with security_protocol {self.security_protocol}")
        for setting in ("password", "key_password"):
            if getattr(self, setting) is not None and getattr(self, f"{setting}_file") is not None:
                raise SettingImpossible(setting, f"give it or {setting}_file, not both")
        for setting, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            if getattr(self, setting) is None and getattr(self, other) is not None:
                raise SettingImpossible(setting, f"is needed with {other}")
        if self.key_file is None and (self.key_password is not None or self.key_password_file is not None):
            raise SettingImpossible("key_file", "is needed with its password")

    @property
    def sasl(self) -> bool:
        """Whether we say a name and prove it by a password."""
        return self.security_protocol.startswith("SASL")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol.endswith("SSL")

    def key_secret(self) -> str | None:
        """The password of the client key. Raises `SettingImpossible`."""
        return _secret("key_password", self.key_password, self.key_password_file)

    def config(self) -> dict[str, str]:
        """Properties of librdkafka. Raises `SettingImpossible` when a file cannot be read."""
        found: dict[str, str] = {"security.protocol": self.security_protocol}
        for setting, file in (("ca_file", self.ca_file), ("cert_file", self.cert_file), ("key_file", self.key_file)):
            if file is not None:
                _readable(setting, file)
                found[_TLS_PROPERTIES[setting]] = str(file)
        secret = self.key_secret()
        if secret is not None:
            found["ssl.key.password"] = secret
        if self.sasl:
            assert self.sasl_mechanism is not None and self.username is not None, "refused when it was made"
            password = _secret("password", self.password, self.password_file)
            assert password is not None, "refused when it was made"
            found |= {"sasl.mechanism": self.sasl_mechanism, "sasl.username": self.username, "sasl.password": password}
        return found

    def context(self) -> ssl.SSLContext:
        """The same trust for clients that are not librdkafka's. Raises `SettingImpossible`."""
        for setting, file in (("ca_file", self.ca_file), ("cert_file", self.cert_file), ("key_file", self.key_file)):
            if file is not None:
                _readable(setting, file)
        setting = "ca_file"
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                setting = "key_file"
                context.load_cert_chain(self.cert_file, self.key_file, self.key_secret() or "")
        except (ssl.SSLError, ValueError):
            raise SettingImpossible(setting, "is no PEM file that fits, or its password is wrong") from None
        return context

    def __repr__(self) -> str:
        return f"Security({self.security_protocol}, {self.sasl_mechanism})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("security_protocol", self.security_protocol), ("sasl_mechanism", self.sasl_mechanism)]


_TLS_PROPERTIES: Final = {
    "ca_file": "ssl.ca.location", "cert_file": "ssl.certificate.location", "key_file": "ssl.key.location",
}  # fmt: skip


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where the brokers are, the prefix that this deployment owns, and how its workers behave there.

    `properties` are librdkafka's, for every client, and win over what is made here. `replication_factor` and
    `min_insync_replicas` None: what the number of brokers allows (`topics.py`).
    """

    bootstrap: str
    prefix: str = ""
    security: Security = Security()
    properties: dict[str, str] = {}
    replication_factor: int | None = None
    min_insync_replicas: int | None = None
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    commit_interval_ms: int = COMMIT_INTERVAL_MS
    transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS
    group_protocol: GroupProtocol = "classic"
    group_instance: bool = False
    standby: bool = False
    worker: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises `SettingImpossible` with the setting's name."""
        if not self.bootstrap.strip() or any(not _is_address(part) for part in self.bootstrap.split(",")):
            raise SettingImpossible("bootstrap", "is host:port, or several with commas between them")
        if not PREFIX.fullmatch(self.prefix):
            raise SettingImpossible("prefix", "is at most 100 letters, digits, dots, dashes and underscores, and no __ first")
        if self.worker and not WORKER.fullmatch(self.worker):
            raise SettingImpossible("worker", "is 1 to 64 letters, digits, dots, dashes and underscores")
        replicas, in_sync = self.replication_factor, self.min_insync_replicas
        if replicas is not None and replicas < 1:
            raise SettingImpossible("replication_factor", "is 1 or more")
        if in_sync is not None and (in_sync < 1 or (replicas is not None and in_sync > replicas)):
            raise SettingImpossible("min_insync_replicas", "is from 1 to the replication factor")
        for setting in ("session_timeout_ms", "commit_interval_ms", "transaction_timeout_ms"):
            if not TOO_SHORT_MS <= getattr(self, setting) <= TOO_LONG_MS:
                raise SettingImpossible(setting, f"is from {TOO_SHORT_MS} to {TOO_LONG_MS}")
        if self.commit_interval_ms >= self.transaction_timeout_ms:
            raise SettingImpossible("commit_interval_ms", "must be shorter than transaction_timeout_ms")

    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each bootstrap address."""
        parts = (part.strip().rpartition(":") for part in self.bootstrap.split(","))
        return [(host.strip("[]"), int(port)) for host, _, port in parts]

    def config(self, client_id: str) -> dict[str, str]:
        """Properties of librdkafka that every client shares. Raises `SettingImpossible` when a file cannot be read."""
        secure = self.security.config() if self.security.security_protocol != "PLAINTEXT" else {}
        size = {"message.max.bytes": str(RECORD_BYTES_MAX)}
        return {"bootstrap.servers": self.bootstrap, "client.id": client_id, **size, **secure, **self.properties}

    def worker_name(self, folder: Path | None = None) -> str:
        """The name under which this worker is known in the group and fenced: the setting, or one that a restart keeps.

        Two workers on one host have two data folders, so the folder stands in the name.
        """
        if self.worker:
            return self.worker
        host = re.sub(r"[^a-zA-Z0-9._-]", "-", socket.gethostname())[:48] or "worker"
        return host if folder is None else f"{host}-{sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"

    def __repr__(self) -> str:
        return f"Connection(prefix={self.prefix!r}, {self.security!r})"  # properties may hold a secret as well


def _is_address(text: str) -> bool:
    host, colon, port = text.strip().rpartition(":")
    return bool(host and "/" not in host and colon and port.isascii() and port.isdigit()) and 0 < int(port[:6]) <= 65_535


def _readable(setting: str, file: Path) -> str:
    try:
        data = file.read_bytes()
        if len(data) <= SECRET_BYTES_MAX:
            return data.decode("utf-8", "surrogateescape")
    except OSError:
        pass
    raise SettingImpossible(setting, "the file cannot be read, or is no such file")


def _secret(setting: str, value: str | None, file: Path | None) -> str | None:
    """A secret: itself, or its file's text without the line's end."""
    if file is None:
        return value
    found = _readable(f"{setting}_file", file).rstrip("\r\n")
    if not found:
        raise SettingImpossible(f"{setting}_file", "the file is empty")
    return found
