"""The lab as a fixture: brought up once for all tests, taken away after them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from lab_words import Lab

BUILD_SECONDS = 3600


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The small lab; WEBFARM_LAB_KEEP=1 leaves it up after the tests."""
    if os.geteuid():
        pytest.skip("the lab needs root")
    lab = Lab()
    keep = os.environ.get("WEBFARM_LAB_KEEP") == "1"
    try:
        lab("up", "--size", "small", timeout=BUILD_SECONDS)
        yield lab
    finally:
        if not keep:
            lab("down", timeout=300)


@pytest.fixture
def mended(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Nodes named to it are started and plugged in again when the test ends."""
    broken: list[str] = []
    yield broken.append
    for node in broken:
        lab("fault", "heal", node)
        lab("fault", "start", node)
