"""The runner `upgrade`: exit code, one document for `--out=json`, Ctrl-C, names; Salt handed in."""

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import BadName, WebfarmError

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
    monkeypatch.setattr(module.salt.client, "get_local_client", lambda **_: Client())
    monkeypatch.setattr(module, "_topology", lambda: None)
    return module


def answer(runner: Any, monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    def farm(*_: Any, **__: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(runner.commands.Context, "farm", farm)


DONE = {"result": True, "state": "done", "message": "in service", "steps": [1], "farm": "farm2"}


def test_success_has_no_retcode(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(runner, monkeypatch, dict(DONE))
    shown = runner.farm("site1", "farm2")
    assert set(shown) == {"data", "outputter"}
    assert "retcode" not in shown["data"]


def test_failure_makes_salt_run_exit_with_1(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(runner, monkeypatch, {**DONE, "result": False})
    assert runner.farm("site1", "farm2")["data"]["retcode"] == 1


@pytest.mark.parametrize("kind", [WebfarmError, TypeError])
def test_an_error_is_data_with_its_message(
    runner: Any, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    answer(runner, monkeypatch, kind("site1 is held by alice"))
    data = runner.farm("site1", "farm2")["data"]
    assert data["result"] is False
    assert data["retcode"] == 1
    if kind is WebfarmError:
        assert data["message"] == "site1 is held by alice"


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
    def touched() -> Any:
        raise AssertionError("the pillar was compiled")

    monkeypatch.setattr(runner, "_topology", touched)
    assert "nothing was changed" in runner.farm("site 1", "farm2")["data"]["message"]
    assert "float" in runner.farm("site1", "farm2", release=2026.11)["data"]["message"]
    del runner.__opts__["fun"]  # called from a program
    with pytest.raises(BadName):
        runner.farm("site1", "farm;2")


def test_ctrl_c_asks_to_stop_and_a_second_one_changes_nothing(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def farm(context: Any, *_: Any) -> Any:
        for _ in range(2):
            asked.append(context.stopping())
            os.kill(os.getpid(), signal.SIGINT)
        asked.append(context.stopping())
        return {**DONE, "result": False, "state": "stopped"}

    monkeypatch.setattr(runner.commands.Context, "farm", farm)
    before = signal.getsignal(signal.SIGINT)
    del runner.__opts__["fun"]
    try:
        data = runner.farm("site1", "farm2")
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [False, True, True]
    assert data["state"] == "stopped"
    assert "the same command goes on from there" in capsys.readouterr().err
