"""Every function of every loader-facing file refuses hostile names before it touches anything."""

import builtins
import importlib.util
import inspect
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webfarm
from webfarm.errors import WebfarmError

ROOT = Path(__file__).parents[2]
# what an argument that is no name gets, and the arguments that are names
HARMLESS: dict[str, Any] = {"path": "/nonexistent", "weight": 100, "state": "ready"}
NAMES = {
    *("backend", "server", "farm", "site", "version", "release", "php", "webapp", "kind", "minion"),
    *("name", "plan_id", "servers", "hold"),
}
# functions whose argument holds names inside, as a function makes one of it
NESTED: dict[tuple[str, str], Any] = {
    ("set_weights", "weights"): lambda name: {"farm1": {name: 100}},
    ("set_farms", "state"): lambda name: {name: "drain"},
    ("set_farms", "generation"): lambda name: {name: 9},
    ("set_farms", "release"): lambda name: {"farm1": name},
    ("set_farms", "pick"): lambda name: {name: 100},
    ("set_farms", "pick_newest"): lambda name: {name: 100},
    ("set_sites", "state"): lambda name: {name: "drain"},
    ("set_sites", "pick"): lambda name: {name: 100},
    ("ensure_farms", "weights"): lambda name: {name: 100},
    ("ensure_sites", "weights"): lambda name: {name: 100},
    ("maps", "weights"): lambda name: {name: 100},
    ("site_maps", "weights"): lambda name: {name: 100},
    ("flush", "servers"): lambda name: [name],
    ("stats", "servers"): lambda name: [name],
    ("plan", "order"): lambda name: f"farm1,{name}",
    ("site", "order"): lambda name: [name],
    ("all_", "order"): lambda name: f"site1/{name}",
}
# a state's own `name` that is only its label
LABELS = {("haproxy_farm", "maps"), ("haproxy_farm", "site_maps")}


class Touched(AssertionError):
    """Something was sent or changed."""


def loaded(kind: str, pillar: dict[str, Any]) -> dict[str, Any]:
    """The public functions of a loader folder, as `module.function`."""
    functions: dict[str, Any] = {}
    dunders = {
        "__opts__": {"id": "site1-farm1-ws1", "test": False, "cachedir": "/nonexistent"},
        "__pillar__": {"webfarm": pillar},
        "__grains__": {},
        "__context__": {},
        "__salt__": {},
        "__jid_event__": None,
    }
    for file in sorted((ROOT / kind).glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(f"loaded{kind}_{file.stem}", file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        vars(module).update(dunders)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(webfarm, "renew", lambda _: None)  # one library, whoever edits it now
            spec.loader.exec_module(module)
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if own and not name.startswith("_"):
                functions[f"{file.stem}.{name}"] = function
    return functions


def cases() -> Iterator[tuple[str, str, str]]:
    for kind in ("_modules", "_states", "_runners"):
        for full_name, function in loaded(kind, {}).items():
            module, name = full_name.split(".")
            for argument in inspect.signature(function).parameters:
                nested = (name, argument) in NESTED
                if nested or (argument in NAMES and (module, name) not in LABELS):
                    yield kind, full_name, argument


def in_place_of(name: str, argument: str, value: object) -> Any:
    make = NESTED.get((name, argument))
    return make(value) if make else value


@pytest.fixture
def nothing_may_be_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> Any:
        raise Touched(args)

    really_open = builtins.open

    def read_only(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            raise Touched(file, mode)
        return really_open(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", read_only)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("rename", "replace", "mkdir", "symlink", "unlink", "rmdir", "link", "chmod"):
        monkeypatch.setattr(os, name, refuse)


HOSTILE = ["a;b", "a\nb", "a b", "..", "a/../b", "/etc/passwd", "'a'", 'a"b', "fárm", "x" * 10_000]


@pytest.mark.parametrize(("kind", "function", "argument"), list(cases()))
def test_no_function_lets_a_hostile_name_through(
    kind: str,
    function: str,
    argument: str,
    pillar: dict[str, Any],
    nothing_may_be_touched: None,
) -> None:
    modules = loaded("_modules", pillar)
    # sls and modules know `list_` by its alias
    modules |= {name[:-1]: f for name, f in modules.items() if name.endswith("_")}
    modules["config.get"] = lambda name, default=None: default
    for one in modules.values():
        if inspect.isfunction(one):
            one.__globals__.setdefault("__salt__", {}).update(modules)
    called = loaded(kind, pillar)[function]
    called.__globals__["__salt__"].update(modules)
    name = function.split(".")[1]
    for hostile in HOSTILE:
        arguments = {}
        for other, parameter in inspect.signature(called).parameters.items():
            if other == argument:
                arguments[other] = in_place_of(name, other, hostile)
            elif parameter.default is inspect.Parameter.empty:
                arguments[other] = in_place_of(name, other, HARMLESS.get(other, "farm1"))
        if kind == "_states":
            try:
                answer = called(**arguments)
            except WebfarmError:
                continue
            assert answer["result"] is False, (hostile, answer)
            assert answer["changes"] == {}
        else:
            with pytest.raises(WebfarmError):
                called(**arguments)


def test_the_functions_that_take_names_are_found() -> None:
    found = {function for _, function, _ in cases()}
    assert {
        "haproxy_runtime.set_weight",
        "php_version.install",
        "upgrade.farm",
        "upgrade.rejoin",
    } <= found
    assert len(found) > 30
