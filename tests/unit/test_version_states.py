"""States of versions report old -> new, change nothing in test mode, never switch unasked."""

from typing import Any

import pytest
from webfarm.errors import WebfarmError
from webfarm.version_states import States


class Server:
    """The execution module `php_version`, with versions in memory."""

    def __init__(self, versions: list[str], current: str | None = None) -> None:
        self.versions, self.active, self.calls = versions, current, []  # type: ignore[var-annotated]

    def functions(self) -> dict[str, Any]:
        names = ("list", "current", "install", "initialise", "activate", "remove", "verify")
        return {f"php_version.{name}": getattr(self, f"_{name}") for name in names}

    def _list(self) -> list[str]:
        return list(self.versions)

    def _current(self) -> str | None:
        return self.active

    def _install(self, version: str, source: str | None, digest: str | None) -> dict[str, Any]:
        self.calls.append(("install", version, source, digest))
        result = "present" if version in self.versions else "installed"
        self.versions = sorted({*self.versions, version})
        return {"result": result}

    def _initialise(self, version: str) -> None:
        self.calls.append(("initialise", version))
        self.active = version

    def _activate(self, version: str) -> dict[str, Any]:
        self.calls.append(("activate", version))
        if version not in self.versions:
            raise WebfarmError(f"{version} is not installed here")
        old, self.active = self.active, version
        return {"changed": old != version, "old": old, "new": version}

    def _remove(self, version: str, force: bool) -> bool:
        self.calls.append(("remove", version, force))
        if version == self.active:
            raise WebfarmError(f"{version} is in use")
        there = version in self.versions
        self.versions = [v for v in self.versions if v != version]
        return there

    def _verify(self, version: str, digest: str | None) -> dict[str, str]:
        return {"version": version}


def apply(server: Server, function: str, *arguments: Any, test: bool = False) -> dict[str, Any]:
    return getattr(States("php_version", server.functions(), test), function)(*arguments)


DO = [
    ("installed", ("8.2.36", None, None), {"old": None, "new": "8.2.36"}),
    ("initialised", ("8.2.32",), {"old": None, "new": "8.2.32"}),
    ("active", ("8.2.32",), {"old": None, "new": "8.2.32"}),
    ("absent", ("8.2.32", False), {"old": "8.2.32", "new": None}),
]


@pytest.mark.parametrize(("function", "arguments", "changes"), DO)
def test_it_is_done_once_and_the_second_time_nothing_changes(
    function: str, arguments: tuple[Any, ...], changes: dict[str, Any]
) -> None:
    server = Server(["8.2.32"])
    first = apply(server, function, *arguments)
    assert (first["result"], first["changes"]) == (True, {"php_version": changes})
    second = apply(server, function, *arguments)
    assert (second["result"], second["changes"]) == (True, {})


@pytest.mark.parametrize(("function", "arguments", "changes"), DO)
def test_in_test_mode_it_is_announced_and_not_done(
    function: str, arguments: tuple[Any, ...], changes: dict[str, Any]
) -> None:
    server = Server(["8.2.32"])
    state = apply(server, function, *arguments, test=True)
    assert (state["result"], state["changes"]) == (None, {"php_version": changes})
    assert "would be" in state["comment"]
    assert server.calls == []
    apply(server, function, *arguments)
    assert apply(server, function, *arguments, test=True)["result"] is True


def test_initialised_never_switches() -> None:
    server = Server(["8.2.32", "8.2.36"], current="8.2.36")
    state = apply(server, "initialised", "8.2.32")
    assert (state["result"], state["changes"], server.active) == (True, {}, "8.2.36")
    assert server.calls == []


def test_active_switches_and_names_both() -> None:
    server = Server(["8.2.32", "8.2.36"], current="8.2.32")
    state = apply(server, "active", "8.2.36")
    assert state["changes"] == {"php_version": {"old": "8.2.32", "new": "8.2.36"}}


def test_digest_and_source_reach_the_module() -> None:
    server = Server([])
    apply(server, "installed", "8.2.36", "0" * 64, "rsync://a/webfarm")
    assert server.calls == [("install", "8.2.36", "rsync://a/webfarm", "0" * 64)]


def test_what_fails_is_the_comment() -> None:
    state = apply(Server([]), "active", "8.2.36")
    assert state["result"] is False
    assert state["comment"] == "8.2.36 is not installed here"
    state = apply(Server(["8.2.36"], "8.2.36"), "absent", "8.2.36", True)
    assert (state["result"], state["comment"]) == (False, "8.2.36 is in use")
