"""The runtime on one machine: one SQLite file, one transaction a commit, and deleted bytes really gone."""

from engine.embedded.retention import Compaction, Retention
from engine.embedded.runtime import EmbeddedRuntime

__all__ = ["Compaction", "EmbeddedRuntime", "Retention"]
