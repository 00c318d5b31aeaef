"""No hostile name gets past any function of the store, the versions, the release or the cache."""

import importlib.util
import inspect
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import webfarm
from webfarm import files, memcache, releasefile
from webfarm.errors import WebfarmError
from webfarm.store import Store
from webfarm.version_states import States
from webfarm.versions import Versions

REPO = Path(__file__).parents[2]
SOURCE = "rsync://127.0.0.1:1/webfarm"


def load(folder: str, name: str, root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", REPO / folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webfarm, "renew", lambda _: None)  # one library, whoever edits it now
        spec.loader.exec_module(module)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was called before the name was checked")

    functions = {
        name: forbidden
        for name in (
            "service.restart",
            "webfarm_topology.node",
            *(f"{m}.{f}" for m in ("php_version", "webapp") for f in ("install", "activate")),
        )
    }
    vars(module).update(
        __opts__={
            "webfarm_root": str(root / "srv"),
            "webfarm_config": str(root / "etc"),
            "webfarm_store": str(root / "store"),
            "test": False,
        },
        __salt__=functions,
        __pillar__={"webfarm": {"store": {"address": "127.0.0.1"}}},
    )
    return module


MODULES = [
    ("_modules", "php_version"),
    ("_modules", "webapp"),
    ("_modules", "webfarm_release"),
    ("_modules", "farm_cache"),
    ("_runners", "store"),
]
# parameters that are not names, with a good value where there must be one
GOOD: dict[str, Any] = {
    "kind": "php",
    "version": "8.2.36",
    "php": "8.2.36",
    "webapp": "2",
    "release": "2026.11.2",
    "path": "/nonexistent",
    "url": "http://127.0.0.1:1/php.tar",
    "archive": "sha256:" + "0" * 64,
    "digest": "0" * 64,
}
NAMES = ("kind", "version", "php", "webapp", "release", "servers")


def cases() -> list[Any]:
    """Every function of the loader's files with every parameter of it that is a name."""
    found = []
    for folder, name in MODULES:
        module = load(folder, name, Path("/nonexistent"))
        for function_name, function in inspect.getmembers(module, inspect.isfunction):
            if function_name.startswith("_") or function.__module__ != module.__name__:
                continue
            for parameter in inspect.signature(function).parameters:
                if parameter in NAMES:
                    label = f"{name}.{function_name}({parameter})"
                    found.append(pytest.param(folder, name, function_name, parameter, id=label))
    return found


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing may appear, and no process, no connection, no lock."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was touched before the name was checked")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(files, "locked", forbidden)
    return tmp_path


def test_all_the_modules_are_looked_at() -> None:
    labels = {str(case.id) for case in cases()}
    assert {
        "php_version.remove(version)",
        "webapp.activate(version)",
        "webfarm_release.switch(webapp)",
        "webfarm_release.status(release)",
        "farm_cache.flush(servers)",
        "store.add(kind)",
    } <= labels
    assert len(labels) > 20


@pytest.mark.parametrize(("folder", "name", "function", "parameter"), cases())
def test_every_function_refuses_it_before_anything_is_touched(
    untouched: Path, hostile_name: object, folder: str, name: str, function: str, parameter: str
) -> None:
    if parameter == "release" and function == "status" and hostile_name is None:
        hostile_name = "a;b"  # None is no name there: it means whichever release runs
    call = getattr(load(folder, name, untouched), function)
    takes = inspect.signature(call).parameters
    arguments = {
        key: GOOD[key]
        for key, value in takes.items()
        if key in GOOD and (value.default is inspect.Parameter.empty or key == parameter)
    }
    arguments[parameter] = [hostile_name] if parameter == "servers" else hostile_name
    with pytest.raises(WebfarmError) as raised:
        call(**arguments)
    assert len(str(raised.value)) < 300
    assert list(untouched.rglob("*")) == []


LIBRARY: list[tuple[str, Callable[[Path, Any], Any]]] = [
    ("Versions kind", lambda root, bad: Versions(bad, root)),
    ("install", lambda root, bad: Versions("php", root).install(bad, SOURCE)),
    ("activate", lambda root, bad: Versions("php", root).activate(bad)),
    ("remove", lambda root, bad: Versions("php", root).remove(bad)),
    ("verify", lambda root, bad: Versions("php", root).verify(bad)),
    ("tree", lambda root, bad: Versions("php", root).tree(bad)),
    ("store add", lambda root, bad: Store(root).add("php", bad, root)),
    ("store add kind", lambda root, bad: Store(root).add(bad, "1", root)),
    ("store digest", lambda root, bad: Store(root).digest("php", bad)),
    ("store verify", lambda root, bad: Store(root).verify("php", bad)),
    ("store remove", lambda root, bad: Store(root).remove("php", bad)),
    ("releases", lambda root, bad: releasefile.add(root / "r.php", "1", "1", bad, None)),
    ("releases php", lambda root, bad: releasefile.add(root / "r.php", bad, "1", "1", None)),
    ("releases webapp", lambda root, bad: releasefile.add(root / "r.php", "1", bad, "1", None)),
    ("flush", lambda root, bad: memcache.flush([bad])),
    ("flush host", lambda root, bad: memcache.flush([f"{bad}:11211"] if bad else [bad])),
    ("stats", lambda root, bad: memcache.stats([bad])),
]


@pytest.mark.parametrize("call", [c for _, c in LIBRARY], ids=[name for name, _ in LIBRARY])
def test_the_library_refuses_it_too(
    untouched: Path, hostile_name: object, call: Callable[[Path, Any], Any]
) -> None:
    if hostile_name in (7, ["farm1"]) and call is dict(LIBRARY)["flush host"]:
        hostile_name = "a;b"  # as text, those are names
    with pytest.raises(WebfarmError):
        call(untouched, hostile_name)
    assert list(untouched.rglob("*")) == []


@pytest.mark.parametrize("function", ["installed", "initialised", "active", "absent"])
def test_states_refuse_it_without_a_call(hostile_name: object, function: str) -> None:
    arguments = {"installed": (None, None), "absent": (False,)}.get(function, ())
    state = getattr(States("php_version", {}), function)(hostile_name, *arguments)
    assert state["result"] is False
    assert state["changes"] == {}
    assert "nothing was changed" in state["comment"]


@pytest.mark.parametrize("version", ["1.manifest", "8.2.36.manifest"])
def test_a_version_cannot_be_taken_for_a_manifest(untouched: Path, version: str) -> None:
    with pytest.raises(WebfarmError, match="kept for manifests"):
        Store(untouched).add("php", version, untouched)


@pytest.mark.parametrize("version", [1, 8.2])
def test_a_number_is_refused_with_the_remedy(untouched: Path, version: object) -> None:
    with pytest.raises(WebfarmError, match=f"quote it twice .* \"'{version}'\""):
        Store(untouched).add("php", version, untouched)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "endpoint",
    ["10.77.1.101", "10.77.1.101:", "10.77.1.101:0", "10.77.1.101:65536", ":11211", "a:b:1",
     "[::1:11211", "[zz]:11211", "10.77.1.101:11211\r\nflush_all", "10.77.1.101:+1", "h:١"],
)  # fmt: skip
def test_a_pool_member_that_is_no_endpoint_is_refused(untouched: Path, endpoint: str) -> None:
    with pytest.raises(WebfarmError, match="nothing was"):
        memcache.flush([endpoint])


def test_endpoints_of_both_address_families_are_taken() -> None:
    assert memcache.check_endpoint("10.77.1.101:11211") == ("10.77.1.101", 11211)
    assert memcache.check_endpoint("[fd00::2]:11211") == ("fd00::2", 11211)
    assert memcache.check_endpoint("cache-1.shop:11211") == ("cache-1.shop", 11211)


@pytest.mark.parametrize("servers", [[], "10.77.1.101:11211", None, {}, 7])
def test_a_pool_is_a_list(untouched: Path, servers: Any) -> None:
    with pytest.raises(WebfarmError, match="must be a list"):
        memcache.flush(servers)
