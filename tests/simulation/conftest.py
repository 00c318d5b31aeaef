"""Show at the end what the simulation has to say beside its dots."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The guards with who missed them, and the size of the model; also with several processes."""
    lines = [
        str(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "simulation"
    ]
    if lines:
        terminalreporter.section("simulation")
        for line in lines:
            terminalreporter.write_line(line)
