"""The rooms of the house, enforced: who may import whom, and what `processors/` may never call."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.topology import default_topology
from processors.registry import processors

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "processors", "engine", "connectors", "law")
OURS = set(ROOMS)
# What each room may import of ours. A dotted name allows that module only.
ALLOWED = {
    "schemas": {"schemas"},
    "processors": {"processors", "schemas", "law"},
    "engine": {"engine", "schemas", "law", "processors.kernel", "processors.registry"},
    "connectors": {"connectors", "engine", "schemas", "processors", "law"},
    "law": {"law"},
}
# Third-party packages per room; the standard library is free everywhere but for the ambient calls below.
THIRD_PARTY = {
    "schemas": {"msgspec", "fastavro", "avro", "phonenumbers"},
    "processors": {"msgspec"},
    "engine": {"msgspec", "cryptography", "yaml"},
    "engine/kafka": {"msgspec", "confluent_kafka", "rocksdict"},
    "engine/simulation": {"msgspec", "confluent_kafka"},
    "engine/scan": {"msgspec", "cryptography", "confluent_kafka"},
    "connectors/http": {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "msgspec", "anyio"},
    "connectors/cli": {"typer", "click", "rich", "httpx", "pydantic", "pydantic_settings", "msgspec", "uvicorn"},
    "connectors/vcon": {"msgspec"},
    "connectors/redis": {"redis", "msgspec"},
    "connectors/faust": {"faust", "mode", "aiokafka", "aiohttp", "prometheus_client", "msgspec"},
    "connectors/webhook": {"httpx", "msgspec"},
    "connectors/registry": {"httpx", "msgspec"},
    "connectors/media": {"boto3", "botocore", "msgspec"},
    "connectors/vault": {"httpx", "msgspec"},
    "law": {"msgspec", "yaml", "cryptography", "holidays"},
}
AMBIENT_MODULES = {"time", "random", "secrets", "uuid", "os", "socket", "threading", "asyncio", "subprocess", "pathlib", "io"}
AMBIENT_CALLS = {"now", "utcnow", "today", "urandom", "open", "print", "input"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: error: relative import"
            yield node.lineno, node.module or ""


def faults_of_imports(path: Path, room: str) -> Iterator[str]:
    parts = path.relative_to(ROOT).parts
    place = "/".join(parts[:2]) if room == "connectors" or "/".join(parts[:2]) in THIRD_PARTY else room
    for line, module in imports(path):
        top = module.split(".")[0]
        if top in OURS:
            allowed = any(module == a or module.startswith(a + ".") for a in ALLOWED[room])
            sibling = room == "connectors" and top == "connectors" and place != "connectors/cli"
            if not allowed or (sibling and not module.startswith(place.replace("/", ".")) and module not in FACES):
                yield f"{path.relative_to(ROOT)}:{line}: error: {room} may not import {module}"
        elif top not in sys.stdlib_module_names and top not in THIRD_PARTY.get(place, set()):
            yield f"{path.relative_to(ROOT)}:{line}: error: {place} may not import {top}"


FACES = {"connectors.vcon"}  # what one connector may use of another: its face


def faults_of_calls(path: Path) -> Iterator[str]:
    for line, module in imports(path):
        if module.split(".")[0] in AMBIENT_MODULES:
            yield f"{path.relative_to(ROOT)}:{line}: error: processors/ may not import {module}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in AMBIENT_CALLS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: error: processors/ may not call {name}()"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_imports_only_what_it_may(room: str) -> None:
    faults = [fault for path in files(room) for fault in faults_of_imports(path, room)]
    assert files(room)
    assert not faults, "\n" + "\n".join(faults)


def test_processors_touch_no_clock_no_randomness_and_no_system() -> None:
    faults = [fault for path in files("processors") for fault in faults_of_calls(path)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_says_what_it_promises(room: str) -> None:
    silent = [str(p.relative_to(ROOT)) for p in files(room) if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_every_processor_is_a_file_a_section_and_a_name() -> None:
    names = set(processors())
    assert names | {"decide_use"} == set(default_topology().processors)
    assert all((ROOT / "processors" / f"{name}.py").exists() for name in names | {"decide_use"})


@pytest.mark.parametrize(
    ("source", "fault"),
    [("import time\n", "import time"), ("x = datetime.now()\n", "call now"), ("open('x')\n", "call open")],
)
def test_the_check_of_ambient_calls_can_fail(source: str, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "processors" / "x.py"
    path.parent.mkdir()
    path.write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert any(fault in f for f in faults_of_calls(path))


def test_the_check_of_imports_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "engine" / "x.py"
    path.parent.mkdir()
    path.write_text("from processors.keep_consent import KeepConsent\nimport requests\nfrom connectors.http import app\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(list(faults_of_imports(path, "engine"))) == 3
