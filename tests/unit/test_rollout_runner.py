"""The runner `upgrade`: exit code, one document for `--out=json`, Ctrl-C, names; Salt handed in."""

import importlib.util
import inspect
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import salt.client
from webfarm.errors import BadName, WebfarmError
from webfarm.rollout.context import Context

from tests.unit.easy_cluster import pillar_of
from tests.unit.easy_waves import OsShop

ROOT = Path(__file__).parents[2]


class Client:
    def destroy(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("runner", ROOT / "_runners" / "upgrade.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    opts = {"cachedir": str(tmp_path), "id": "master_master", "fun": "upgrade.farm"}
    vars(module).update({"__opts__": opts})
    spec.loader.exec_module(module)
    monkeypatch.setattr(salt.client, "get_local_client", lambda **_: Client())
    monkeypatch.setattr(module.salt_master, "topology", lambda opts: None)
    return module


def answer(runner: Any, monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    def upgrade(*_: Any, **__: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(runner.commands, "upgrade", upgrade)


DONE = {"result": True, "state": "done", "message": "in service", "steps": [1], "farm": "farm2"}


def test_success_has_no_retcode(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(runner, monkeypatch, dict(DONE))
    shown = runner.farm("site1", "farm2")
    assert set(shown) == {"data", "outputter"}
    assert "retcode" not in shown["data"]


def test_failure_makes_salt_run_exit_with_1(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(runner, monkeypatch, {**DONE, "result": False})
    assert runner.farm("site1", "farm2")["data"]["retcode"] == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WebfarmError("site1 is held by alice"), "site1 is held by alice"),
        (sqlite3.OperationalError("disk is full"), "the master's disk or journal does not work"),
        (PermissionError("no"), "the master's disk or journal does not work"),
        (TypeError("x"), "a mistake in Webfarm (TypeError): see the traceback"),
        (KeyError("x"), "a mistake in Webfarm (KeyError): see the traceback"),
    ],
)
def test_an_error_is_data_with_its_message(
    runner: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    answer(runner, monkeypatch, error)
    data = runner.farm("site1", "farm2")["data"]
    assert (data["result"], data["retcode"]) == (False, 1)
    assert data["message"].startswith(message)


@pytest.mark.parametrize("seconds", [0, 9, 3601, "60", True, None, float("nan")])
def test_a_lease_time_without_sense_is_refused(
    runner: Any, monkeypatch: pytest.MonkeyPatch, seconds: Any
) -> None:
    answer(runner, monkeypatch, dict(DONE))
    runner.__opts__["webfarm_lease_seconds"] = seconds
    assert "webfarm_lease_seconds" in runner.farm("site1", "farm2")["data"]["message"]


def test_out_json_gets_the_whole_data_and_nothing_else(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.__opts__["output"] = "json"
    answer(runner, monkeypatch, dict(DONE))
    assert runner.farm("site1", "farm2") == DONE
    assert capsys.readouterr() == ("", "")


def test_a_name_that_is_none_is_refused_before_anything_is_asked(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(opts: Any) -> Any:
        raise AssertionError("the pillar was compiled")

    monkeypatch.setattr(runner.salt_master, "topology", touched)
    assert "nothing was changed" in runner.farm("site 1", "farm2")["data"]["message"]
    assert "float" in runner.farm("site1", "farm2", release=2026.11)["data"]["message"]
    del runner.__opts__["fun"]  # called from a program
    with pytest.raises(BadName):
        runner.farm("site1", "farm;2")


def test_ctrl_c_asks_to_stop_and_a_second_one_changes_nothing(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def upgrade(context: Any, *_: Any) -> Any:
        for _ in range(2):
            asked.append(context.interrupted())
            os.kill(os.getpid(), signal.SIGINT)
        asked.append(context.interrupted())
        return {**DONE, "result": False, "state": "paused"}

    monkeypatch.setattr(runner.commands, "upgrade", upgrade)
    before = signal.getsignal(signal.SIGINT)
    del runner.__opts__["fun"]
    try:
        data = runner.farm("site1", "farm2")
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [False, True, True]
    assert data["state"] == "paused"
    assert "upgrade.resume` goes on from there" in capsys.readouterr().err


def test_a_terminal_that_hangs_up_does_not_stop_a_run(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade(context: Any, *_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return {**DONE, "asked": context.interrupted()}

    monkeypatch.setattr(runner.commands, "upgrade", upgrade)
    before = signal.getsignal(signal.SIGHUP)
    del runner.__opts__["fun"]
    assert runner.farm("site1", "farm2")["asked"] is False
    assert signal.getsignal(signal.SIGHUP) is before


def test_ctrl_c_while_watching_says_that_the_run_goes_on(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watch(context: Any, number: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return {"result": context.interrupted(), "run": number}

    monkeypatch.setattr(runner.status_, "watch", watch)
    del runner.__opts__["fun"]
    assert runner.watch(7) == {"result": True, "run": 7}
    assert "the run goes on" in capsys.readouterr().err


FUNCTIONS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    # function: module and command behind it, arguments
    "plan": ("commands", "plan", ("site1", "farm2")),
    "farm": ("commands", "upgrade", ("site1", "farm2")),
    "site": ("commands", "upgrade", ("site1",)),
    "all_": ("commands", "upgrade", ()),
    "os_": ("waves", "upgrade_os", ("site1", "tool", "online")),
    "server": ("servers", "server", ("site1", "farm2", "ws1")),
    "rejoin": ("servers", "rejoin", ("ws1",)),
    "status": ("status_", "status", ()),
    "watch": ("status_", "watch", ()),
    "history": ("status_", "history", ()),
    "pause": ("control", "pause", (7,)),
    "resume": ("control", "resume", (7,)),
    "abort": ("control", "abort", (7,)),
    "rollback": ("back", "rollback", (7,)),
    "unlock": ("control", "unlock", ("site1", "it hangs")),
    "bad": ("control", "bad", ("2026.11.2", "loses carts")),
    "certify": ("certificates_", "certify", ("2026.11.2",)),
    "certificates": ("certificates_", "certificates", ()),
    "revoke": ("certificates_", "revoke", (7, "loses carts")),
    "good": ("control", "good", ("2026.11.2", "it was the database")),
}


def test_every_function_is_in_the_table(runner: Any) -> None:
    own = {
        name
        for name, value in vars(runner).items()
        if callable(value) and getattr(value, "__module__", "") == runner.__name__
    }
    assert {name for name in own if not name.startswith("_")} == set(FUNCTIONS)


@pytest.mark.parametrize("name", list(FUNCTIONS))
@pytest.mark.parametrize("result", [True, False])
def test_every_function_gives_one_document_and_the_exit_code(
    runner: Any, monkeypatch: pytest.MonkeyPatch, name: str, result: bool
) -> None:
    module, command, arguments = FUNCTIONS[name]
    monkeypatch.setattr(getattr(runner, module), command, lambda *_: {"result": result})
    runner.__opts__["output"] = "json"
    runner.__opts__["fun"] = f"upgrade.{name.rstrip('_')}"
    data = getattr(runner, name)(*arguments)
    assert data == ({"result": True} if result else {"result": False, "retcode": 1})


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_function_passes_what_it_was_given_in_the_right_place(
    runner: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each argument by its name arrives as the argument of that name."""
    module, command, arguments = FUNCTIONS[name]
    real = inspect.signature(getattr(getattr(runner, module), command))
    given: dict[str, Any] = {}

    def record(*args: Any) -> dict[str, Any]:
        given.update(real.bind(*args).arguments)
        return {"result": True}

    monkeypatch.setattr(getattr(runner, module), command, record)
    values = {
        parameter: number if parameter in ("id", "limit", "rollout") else f"{parameter}1"
        for number, parameter in enumerate(inspect.signature(getattr(runner, name)).parameters, 1)
    }
    getattr(runner, name)(**values)
    del given["context"]
    absent = set(given) - set(values)
    assert {key: value for key, value in given.items() if key in values} == values
    assert all(given[key] is None for key in absent)
    assert len(arguments) <= len(values)


ODD: list[Any] = [
    *(True, False, None, 0, -1, 7, 10**30, 1.5, float("nan"), "", "7", "a;b", "../x", "x" * 10_000),
    *([], [1], ["farm1"], {}, {"a": 1}, {1: 2}, {"gates": 7}, {"soak_seconds": {}}, b"farm1"),
    *("farm1,farm1", "site1", "site1/farm1", "\x1b[31m", "a\nb", {"farm1": None}, [["farm1"]]),
]
TYPED: dict[str, Any] = {
    # what each argument otherwise gets
    **{"site": "site1", "farm": "farm2", "server": "site1-farm2-ws1", "minion": "site1-lb1"},
    **{"release": "2026.11.2", "reason": "a reason", "id": 7},
    **{"packages": ["tool"], "kind": "online"},
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_nothing_that_is_typed_makes_a_traceback(
    runner: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pillar: dict[str, Any],
    name: str,
) -> None:
    shop = OsShop(tmp_path, pillar_of(pillar))

    @contextmanager
    def context(*_: Any) -> Iterator[Context]:
        yield replace(shop.context, interrupted=lambda: True)  # no run goes far

    monkeypatch.setattr(runner.salt_master, "context", context)
    runner.__opts__["output"] = "json"
    function = getattr(runner, name)
    for argument in inspect.signature(function).parameters:
        for odd in ODD:
            given = {
                other: TYPED[other]
                for other, parameter in inspect.signature(function).parameters.items()
                if parameter.default is inspect.Parameter.empty
            }
            data = function(**{**given, argument: odd})
            shown = json.dumps(data)
            assert "a mistake in Webfarm" not in shown, (argument, odd, shown)
            assert "\\u001b" not in shown and len(shown) < 200_000
            assert data.get("result", True) or data["message"], (argument, odd, shown)
