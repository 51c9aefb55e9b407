"""A real broker with TLS, SASL and an authorizer, and an authority of its own: what security settings are tried on.

| listener | protocol | who a client is |
|---|---|---|
| PLAINTEXT | PLAINTEXT | ANONYMOUS, which may do everything here: tests set things up by it |
| SASL | SASL_SSL | a SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN user |
| OPEN | SASL_PLAINTEXT | the same without TLS |
| MTLS | SSL | the common name of the client's certificate |
"""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from engine.kafka.connection import Connection, Security
from tests.parts.kafka import Broker

ADMIN_SECS_MAX = 20.0
SCRAM = ScramMechanism.SCRAM_SHA_512
USERS = {"cw": "worker-word", "cg": "gateway-word", "cr": "model-word", "cp": "publisher-word", "cc": "consumer-word"}
KEY_WORD = "key-word"
MODULE = "org.apache.kafka.common.security"


class Authority:
    """Makes certificates in a folder, as PEM files."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, name: str, *, password: str | None = None) -> tuple[Path, Path]:
        """A certificate for `name` on this machine, and its key: (certificate, key)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        places = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
        made = self._builder(subject, key).add_extension(places, critical=False).sign(self._key, hashes.SHA256())
        locked: KeySerializationEncryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


class SecuredBroker:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("broker")
        store = folder / "broker-store.pem"
        store.write_text(key.read_text() + certificate.read_text())
        self.client = self.authority.issue("client", password=KEY_WORD)
        users = " ".join(f'user_{name}="{word}"' for name, word in USERS.items())
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
            "ssl.keystore.type": "PEM", "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM", "ssl.truststore.location": self.authority.certificate,
            "listener.name.mtls.ssl.client.auth": "required",
            "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
        }  # fmt: skip
        for listener in ("sasl", "open"):
            for mechanism in ("scram-sha-512", "scram-sha-256"):
                jaas = f"{MODULE}.scram.ScramLoginModule required;"
                properties[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = jaas
            properties[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{MODULE}.plain.PlainLoginModule required {users};"
        listeners = {"SASL": "SASL_SSL", "OPEN": "SASL_PLAINTEXT", "MTLS": "SSL"}
        self.broker = Broker(listeners=listeners, scram=USERS, properties=properties)

    def start(self) -> None:
        """Start it; users have their passwords for both SCRAM mechanisms."""
        self.broker.start()
        info = ScramCredentialInfo(SCRAM, 4_096)
        changes: list[Any] = [UserScramCredentialUpsertion(name, info, word.encode()) for name, word in USERS.items()]
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        for done in admin.alter_user_scram_credentials(changes).values():
            done.result(ADMIN_SECS_MAX)

    def as_admin(self, prefix: str = "") -> Connection:
        """A connection that may do everything."""
        return Connection(bootstrap=self.broker.bootstrap, prefix=prefix)

    def as_user(self, name: str, prefix: str = "", *, word: str | None = None, mechanism: Any = "SCRAM-SHA-512") -> Connection:
        """A connection over TLS by name and password."""
        security = Security(
            security_protocol="SASL_SSL", sasl_mechanism=mechanism, username=name, password=USERS[name] if word is None else word,
            ca_file=self.authority.certificate,
        )  # fmt: skip
        return Connection(bootstrap=self.broker.address("SASL"), prefix=prefix, security=security)

    def as_client(self, prefix: str = "") -> Connection:
        """A connection over TLS by certificate, whose key has a password."""
        certificate, key = self.client
        security = Security(
            security_protocol="SSL", ca_file=self.authority.certificate, cert_file=certificate, key_file=key,
            key_password=KEY_WORD,
        )  # fmt: skip
        return Connection(bootstrap=self.broker.address("MTLS"), prefix=prefix, security=security)

    def stop(self) -> None:
        """End it; its data goes."""
        self.broker.stop(kill=True)
