"""An embedded deployment with a clock of the test's own, that can be closed, copied, put back and opened again."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.service import Service
from tests.endtoend.world import Told, envelope, topic_of
from tests.harness import START_MS


class House:
    """See the module. `tell` folds what it publishes, and lets ten minutes pass."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms = folder, START_MS
        self.service = self.open()

    def open(self) -> Service:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms)
        return self.service

    def publish(self, *events: Told) -> None:
        for told in events:
            key = told.data.get("conversation_id") or told.data.get("request_id") or told.id
            self.service.publish([(topic_of(told.type), key, envelope(told, self.now_ms))])

    def tell(self, *events: Told) -> None:
        self.publish(*events)
        self.settle()

    def settle(self, ms: int = 600_000) -> None:
        self.service.settle()
        self.now_ms += ms
        self.service.settle()

    def backup(self) -> Path:
        self.service.stop()
        shutil.rmtree(copy := self.folder.with_name("backup"), ignore_errors=True)
        shutil.copytree(self.folder, copy)
        self.open()
        return copy

    def restore(self, copy: Path) -> None:
        self.service.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        self.open()
