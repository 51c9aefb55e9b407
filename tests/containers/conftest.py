"""A container engine with the images that our files name; without it these tests are skipped, or fail where nothing may be."""

import os
import subprocess

import pytest

from tests.parts import containers
from tests.parts.kafka import IMAGE
from tests.parts.process import is_required

IMAGES = (IMAGE, "redis:8", "python:3.11-slim")
COMPOSE_SECS_MAX = 30


def _missing() -> str | None:
    if containers.client() is None:
        return "a container engine (Docker, or podman's API and DOCKER_HOST)"
    absent = [image for image in IMAGES if not containers.has_image(image)]
    return f"the images {', '.join(absent)} (deploy/containers/stand-ins)" if absent else None


def _need(missing: str | None) -> None:
    if missing is not None and is_required() and not os.environ.get("CONSENTINEL_WITHOUT_CONTAINERS"):
        pytest.fail(f"required here: {missing}", pytrace=False)
    if missing is not None:
        pytest.skip(f"needs {missing}")


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine that answers and has the images; nothing is pulled."""
    _need(_missing())


@pytest.fixture(scope="session")
def compose(engine: None) -> None:
    """Docker Compose v2 besides."""
    try:
        asked = ["docker", "compose", "version"]
        found = subprocess.run(asked, capture_output=True, timeout=COMPOSE_SECS_MAX, check=False).returncode == 0
    except OSError:
        found = False
    _need(None if found else "Docker Compose v2")
