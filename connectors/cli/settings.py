"""Settings, each from one place: flags first, then `CONSENTINEL_SECTION__KEY`, then `consentinel.toml` in the working folder."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)  # fmt: skip

from connectors.cli.faults import BadUsage, Unanswered
from engine.kafka.connection import (
    COMMIT_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
    Connection,
    GroupProtocol,
    Mechanism,
    Protocol,
    Security,
)  # fmt: skip

FILE = "consentinel.toml"
RAW_RETENTION_SECS = 86_400
RAW_RETENTION_SECS_MAX = 7 * 86_400  # the backstop of the design, section 4: raw data never rests longer
SECRET_BYTES_MAX = 65_536
MEDIA_GIVE_UP_SECS = 3_600.0  # before an order that cannot be carried out has failed; it is told again after some hours
MEDIA_GIVE_UP_SECS_MAX = 30 * 86_400.0
FRESHNESS_SECS = 5.0  # design, section 5: an older read model denies


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt setting must not look as if it worked


class RawSettings(_Section):
    """`raw`: how long raw payloads rest."""

    retention_secs: Annotated[int, Field(ge=0, le=RAW_RETENTION_SECS_MAX)] = RAW_RETENTION_SECS


class KeySettings(_Section):
    """`keys`: where the key ring is: a file, by default `DIR.ring` beside the data folder, or Vault where `vault_url` is set.

    What each `vault_` setting means is in `connectors/vault/connection.py`; `connectors/cli/rings.py` opens the ring.
    """

    ring: Path | None = None
    vault_url: str | None = None
    vault_token_file: Path | None = None
    vault_role_id: str | None = None
    vault_secret_id_file: Path | None = None
    vault_approle_mount: str = "approle"
    vault_transit_mount: str = "transit"
    vault_kv_mount: str = "secret"
    vault_namespace: str = ""
    vault_ca_file: Path | None = None
    vault_prefix: str = "consentinel"


class HttpSettings(_Section):
    """`http`: where the service listens. Port 0 picks a free one."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080


class KafkaSettings(_Section):
    """`kafka`: the cluster, if there is one, and how workers behave there; `engine/kafka/connection.py` says what each means."""

    bootstrap: str | None = None
    prefix: str = ""
    security_protocol: Protocol = "PLAINTEXT"
    sasl_mechanism: Mechanism | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    key_password_file: Path | None = None
    properties: dict[str, str] = {}
    replication_factor: Annotated[int, Field(ge=1, le=16)] | None = None
    min_insync_replicas: Annotated[int, Field(ge=1, le=16)] | None = None
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    commit_interval_ms: int = COMMIT_INTERVAL_MS
    transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS
    group_protocol: GroupProtocol = "classic"
    group_instance: bool = False
    standby: bool = False
    worker: str = ""
    principals: dict[str, str] = {}
    registry_url: SecretStr | None = None
    registry_ca_file: Path | None = None

    def connection(self, bootstrap: str | None = None) -> Connection:
        """How to reach the cluster; `bootstrap` wins over the setting. Raises `SettingImpossible` and `BadUsage`."""
        found = bootstrap or self.bootstrap
        if found is None:
            raise BadUsage("no cluster is named: give --kafka HOST:PORT, or set CONSENTINEL_KAFKA__BOOTSTRAP")
        plain: dict[str, Any] = {name: getattr(self, name) for name in KafkaSettings.model_fields}
        plain |= {name: value.get_secret_value() for name, value in plain.items() if isinstance(value, SecretStr)}
        security = Security(**{name: plain[name] for name in Security.__struct_fields__})
        own = {name: plain[name] for name in Connection.__struct_fields__ if name not in ("bootstrap", "security")}
        return Connection(bootstrap=found, security=security, **own)


class RedisSettings(_Section):
    """`redis`: the read model on a cluster. `url` may hold a user and a password; `rediss://` is TLS."""

    url: SecretStr | None = None
    password_file: Path | None = None

    def needed_url(self) -> str:
        """The URL. Raises `BadUsage`."""
        if self.url is None:
            raise BadUsage("no Redis is named: set CONSENTINEL_REDIS__URL")
        return self.url.get_secret_value()


class WebhookSettings(_Section):
    """`webhook`: who is told of breach alerts and erasure notices. Without a URL they are lines of the worker's log."""

    url: SecretStr | None = None
    secret: SecretStr | None = None
    secret_file: Path | None = None
    ca_file: Path | None = None

    def signing_secret(self) -> str:
        """The shared secret. Raises `BadUsage`."""
        return _given(self.secret, self.secret_file, "webhook.secret", "webhook.url")


class MediaSettings(_Section):
    """`media`: where recordings rest, so that they can be deleted; docs/media.md says what each means."""

    roots: list[Path] = []
    sidecars: list[str] = []
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_buckets: list[str] = []
    s3_access_key: SecretStr | None = None
    s3_access_key_file: Path | None = None
    s3_secret_key: SecretStr | None = None
    s3_secret_key_file: Path | None = None
    s3_ca_file: Path | None = None
    give_up_secs: Annotated[float, Field(ge=0, le=MEDIA_GIVE_UP_SECS_MAX)] = MEDIA_GIVE_UP_SECS

    def access_key(self) -> str:
        """The name of the key to the store. Raises `BadUsage`."""
        return _given(self.s3_access_key, self.s3_access_key_file, "media.s3_access_key", "media.s3_endpoint")

    def secret_key(self) -> str:
        """The key to the store. Raises `BadUsage`."""
        return _given(self.s3_secret_key, self.s3_secret_key_file, "media.s3_secret_key", "media.s3_endpoint")


class LawSettings(_Section):
    """`law`: an operator's own packs (a folder of NAME.yaml with NAME.sig), and the public keys that they are trusted by."""

    folder: Path | None = None
    keys: list[str] = []


def _given(secret: SecretStr | None, file: Path | None, name: str, needed_by: str) -> str:
    if secret is not None:
        return secret.get_secret_value()
    if file is None:
        raise BadUsage(f"{name}: is needed with {needed_by}, or {name}_file")
    return _secret_in(file, f"{name}_file")


def _secret_in(file: Path, name: str) -> str:
    try:
        data = file.read_bytes()
        if len(data) <= SECRET_BYTES_MAX:
            return data.decode().strip()
    except (OSError, UnicodeDecodeError):
        pass
    raise BadUsage(f"{name}: the file cannot be read")


class Settings(BaseSettings):
    """All settings. `url` and the token say how commands reach a running service; a secret may come from a `*_file`."""

    model_config = SettingsConfigDict(
        env_prefix="CONSENTINEL_", env_nested_delimiter="__", toml_file=FILE, extra="forbid", env_ignore_empty=True,
    )  # fmt: skip
    raw: RawSettings = RawSettings()
    keys: KeySettings = KeySettings()
    http: HttpSettings = HttpSettings()
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    webhook: WebhookSettings = WebhookSettings()
    media: MediaSettings = MediaSettings()
    law: LawSettings = LawSettings()
    freshness_secs: Annotated[float, Field(gt=0, le=60)] = FRESHNESS_SECS
    url: str | None = None
    token: SecretStr | None = None
    token_file: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Give the sources in the contract's order, the strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def bearer(self) -> str:
        """The token to show a service: itself, or what is in its file. Raises `Unanswered`."""
        if self.token is not None:
            return self.token.get_secret_value().strip()
        if self.token_file is None:
            raise Unanswered("a token is needed: give --token-file, or set CONSENTINEL_TOKEN_FILE or CONSENTINEL_TOKEN")
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise Unanswered("the token file cannot be read") from None


def load_settings() -> Settings:
    """Read all settings. Raises `BadUsage`, which names the setting and never its value."""
    try:
        return Settings()
    except ValidationError as wrong:
        names = sorted({".".join(str(part) for part in error["loc"]) for error in wrong.errors()})
        raise BadUsage(f"no such setting, or not a value for it: {', '.join(names)}") from None
    except (SettingsError, ValueError, OSError):
        raise BadUsage(f"{FILE} or a CONSENTINEL_ variable cannot be read") from None
