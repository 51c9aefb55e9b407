"""Our own schemas in a registry: what stands there, and registering what does not, all or nothing of what is refused.

A subject is the full name of a record (RecordNameStrategy): topics here carry several record types, so a subject per topic
(TopicNameStrategy) would compare schemas that have nothing to do with each other.
"""

import msgspec

from connectors.registry import Registry, Standing
from engine.topology import Topology
from schemas.generate import RECORDS, compact, schema_of

OUTSIDE = frozenset({"publisher", "consumer"})  # roles that are not ours, and may want to know what stands in a topic


class Subject(msgspec.Struct, frozen=True):
    """One of our records: its subject, how its schema stands there, and the schema."""

    subject: str
    standing: Standing
    schema: str


def look(registry: Registry, topology: Topology) -> list[Subject]:
    """How the schema of each record that others write or read stands, by subject. Raises `RegistryAway`."""
    public = {name for t in topology.topics.values() if OUTSIDE & {*t.writers, *t.readers} for name in t.schema}
    found = []
    for cls in RECORDS:
        if cls.SCHEMA in public:
            schema = schema_of(cls)
            subject, text = f"{schema['namespace']}.{schema['name']}", compact(schema)
            found.append(Subject(subject, registry.standing(subject, text), text))
    return sorted(found, key=lambda one: one.subject)


def register(registry: Registry, subjects: list[Subject]) -> list[Subject]:
    """Register what is missing, unless anything is incompatible; returns how everything stands then. Raises `RegistryAway`."""
    if any(one.standing == "incompatible" for one in subjects):
        return subjects
    return [one if one.standing == "registered" else _registered(registry, one) for one in subjects]


def _registered(registry: Registry, one: Subject) -> Subject:
    standing: Standing = "registered" if registry.register(one.subject, one.schema) else "incompatible"
    return msgspec.structs.replace(one, standing=standing)
