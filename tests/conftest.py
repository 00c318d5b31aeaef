"""What all test tiers share: the library on the path, and an example topology."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# no deadlines, since machines are busy; the same examples each time: --hypothesis-profile=default
# tries others
settings.load_profile("ci")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "_utils"))
sys.path.insert(0, str(ROOT / "lab"))

EXAMPLE: dict[str, Any] = {
    "store": {"minion": "master", "address": "10.77.0.2"},
    "primary": {
        "balancers": {"lb1": {"address": "10.77.0.11", "public": "10.77.100.11"}},
        "domain": "shop.example",
    },
    "sites": {
        f"site{s}": {
            "balancers": {
                f"site{s}-lb1": {"address": f"10.77.{s}.11"},
                f"site{s}-lb2": {"address": f"10.77.{s}.12"},
            },
            "database": {"minion": f"site{s}-db1", "address": f"10.77.{s}.5"},
            "farms": {
                f"farm{f}": {
                    "memcached": [f"10.77.{s}.{100 + 10 * f + n}:11211" for n in (1, 2)],
                    "servers": {
                        f"site{s}-farm{f}-ws{n}": {"address": f"10.77.{s}.{100 + 10 * f + n}"}
                        for n in (1, 2)
                    },
                }
                for f in (1, 2)
            },
        }
        for s in (1, 2)
    },
    "releases": {
        "2026.11.1": {"php": "8.2.32", "webapp": "1"},
        "2026.11.2": {"php": "8.2.36", "webapp": "2"},
    },
    "initial": "2026.11.1",
    "target": "2026.11.2",
}

HOSTILE_NAMES = [
    "farm1;shutdown sessions",
    "farm1\nset weight",
    "farm 1",
    "..",
    "a..b",
    "../etc",
    "/etc/passwd",
    "'farm'",
    'farm"1',
    "farm`id`",
    "$(id)",
    "fárm",
    "farm\x00",
    "x" * 10_000,
    "",
    "-rf",
    ".hidden",
    "#comment",
    None,
    7,
    ["farm1"],
]


@pytest.fixture
def pillar() -> dict[str, Any]:
    """A valid value of the pillar `webfarm`, the test's own copy."""
    return copy.deepcopy(EXAMPLE)


@pytest.fixture(params=HOSTILE_NAMES, ids=lambda value: ascii(value)[:24])
def hostile_name(request: pytest.FixtureRequest) -> object:
    """A name that no function may let through."""
    return request.param


class Early:
    """Says at once which test failed and why in a line; the rest comes at the end, as ever."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.split("\n")[0] if crash else ""
            self.terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}): {why[:200]}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Early(terminal))
