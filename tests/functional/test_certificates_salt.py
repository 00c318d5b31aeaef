"""A release is certified through Salt's loader: real trees by rsync, holds, requests, a command.

Everything is real but the bus and PHP: the functions are those that a minion runs, loaded and
called as it does.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import webfarm
import yaml
from server_world import NODES, WebNode
from versions_world import add_php, add_webapp, rsync_daemon
from webfarm import topology
from webfarm.certificates import commands
from webfarm.certificates.model import Uncertified
from webfarm.rollout import commands as rollouts
from webfarm.rollout.cluster import held
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Hold
from webfarm.rollout.model import Reply
from webfarm.store import Store

REPO = Path(__file__).parents[2]
PRE = "preproduction-default"
RELEASE = "2026.11.2"
SERVICE = """
import server_world
__virtualname__ = "service"
def __virtual__():
    return __virtualname__
def restart(name):
    return server_world.NODES[__opts__["web_node"]].restart(name)
"""


class Minion:
    """One minion without its bus: what is called goes through its loader, in this process."""

    def __init__(self, opts: dict[str, Any], source: str) -> None:
        self.caller = salt.client.Caller(mopts=opts).cmd
        self.source = source
        self.hold: Hold | None = None
        self.calls: list[str] = []

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> Mapping[str, Reply]:
        assert list(targets) == [PRE]
        self.calls.append(function)
        given = dict(held(self.hold, site, function, arguments))
        if function == "webfarm_release.stage":  # the store of a test has another port
            given["source"] = self.source
        try:
            return {PRE: Reply(True, self.caller(function, **given))}
        except Exception as error:  # as over the bus: a failure is a reply
            return {PRE: Reply(False, None, str(error))}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebNode]:
    monkeypatch.setattr(webfarm, "renew", lambda _: None)
    node = WebNode(tmp_path / "srv", tmp_path / "etc")
    monkeypatch.setitem(NODES, node.port, node)
    yield node
    node.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    add_php(store, tmp_path / "trees", "8.2.36")
    add_webapp(store, tmp_path / "trees", "2")
    return store


@pytest.fixture
def context(
    tmp_path: Path, node: WebNode, store: Store, pillar: dict[str, Any]
) -> Iterator[Context]:
    check = tmp_path / "check"
    check.write_text(f"#!/bin/sh\necho asked about $1\ntest ! -e {tmp_path}/bad\n")
    check.chmod(0o700)
    data = copy.deepcopy(pillar)
    data["preproduction"] = {
        "servers": {PRE: {"address": "127.0.0.1", "port": node.port}},
        "smoke": [{"path": "/", "contains": "page"}, {"path": "/missing", "status": 404}],
        "command": [str(check), "the shop"],
        "soak_seconds": 1,
        "soak_requests": 50,
        "reboot_seconds": 30,
    }
    (tmp_path / "salt/modules").mkdir(parents=True)
    (tmp_path / "salt/modules/service.py").write_text(SERVICE)
    (tmp_path / "salt/_modules").symlink_to("modules")
    (tmp_path / "pillar").mkdir()
    (tmp_path / "pillar/top.sls").write_text(f"base: {{'{PRE}': [cluster]}}\n")
    (tmp_path / "pillar/cluster.sls").write_text(yaml.safe_dump({"webfarm": data}))
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts.update(
        id=PRE,
        root_dir=str(tmp_path / "salt"),
        cachedir=str(tmp_path / "salt/cache"),
        conf_file=str(tmp_path / "salt/minion"),
        file_client="local",
        module_dirs=[str(tmp_path / "salt"), str(REPO)],
        states_dirs=[],
        pillar={"webfarm": data},
        pillar_roots={"base": [str(tmp_path / "pillar")]},
        webfarm_root=str(node.root),
        webfarm_config=str(node.config),
        webfarm_holds=str(tmp_path / "holds"),
        web_node=node.port,
        grains={},
    )
    with rsync_daemon(tmp_path / "rsync", store.root) as source:
        yield Context(
            topology=topology.parse(data),
            cluster=Minion(opts, source),  # type: ignore[arg-type]
            clock=time,
            journal_path=tmp_path / "journal.sqlite",
            holder="alice",
            digests=store.digest,
        )


def refused(context: Context) -> str:
    with pytest.raises(Uncertified) as caught:
        rollouts.upgrade(context, "site1", "farm1", RELEASE)
    return str(caught.value)


def test_a_release_that_ran_in_preproduction_is_certified_by_what_was_there(
    context: Context, node: WebNode, store: Store
) -> None:
    assert "there is no certificate" in refused(context)
    data = commands.certify(context, release=RELEASE)
    assert data["result"], data["message"]
    tested = data["tested"]["default"]
    digests = {"php": store.digest("php", "8.2.36"), "webapp": store.digest("webapp", "2")}
    assert tested["release"] == {"php": "8.2.36", "webapp": "2", "digests": digests}
    assert (tested["soak requests"], tested["soak failed"]) == (50, 0)
    assert 0 < tested["soak p50"] <= tested["soak p99"]
    assert node.running == "8.2.36"
    pages = [path for path, _ in node.asked if path != "/ready"]
    assert (pages.count("/"), pages.count("/missing")) == (26, 26)
    whole = commands.certificates(context, data["id"])["certificate"]["tested"]["default"]
    (command,) = [one for one in whole["evidence"] if one["what"] == "command"]
    assert (command["code"], command["output"]) == (0, "asked about the shop")
    assert (Path(context.journal_path).parent / "holds" / f"webfarm.{PRE}").exists()
    again = commands.certify(context, release=RELEASE)
    assert (again["result"], node.restarts) == (True, 1)


def test_what_fails_is_named_and_production_stays_closed(
    context: Context, node: WebNode, tmp_path: Path
) -> None:
    (tmp_path / "bad").touch()
    data = commands.certify(context, release=RELEASE)
    assert (data["result"], data["state"]) == (False, "failed")
    assert (
        f"{PRE}: the command {tmp_path}/check ended with 1: asked about the shop"
        in (data["message"])
    )
    assert "certificate 1 failed" in refused(context)
    (tmp_path / "bad").unlink()
    node.broken = {"8.2.36"}
    node.running = None
    data = commands.certify(context, release=RELEASE)
    assert "did not become ready" in data["message"] or "switch failed" in data["message"]
    assert "certificate 2 failed" in refused(context)


def test_a_file_of_a_tree_that_was_altered_on_the_server_is_found(
    context: Context, node: WebNode
) -> None:
    assert commands.certify(context, release=RELEASE)["result"]
    page = node.root / "webapp/versions/2/public/index.php"
    page.chmod(0o644)
    page.write_text("<?php echo 'other';\n")
    data = commands.certify(context, release=RELEASE)
    assert not data["result"]
    assert "public/index.php" in data["message"]


def test_the_minion_runs_no_command_but_that_of_its_pillar(
    context: Context, tmp_path: Path
) -> None:
    minion = context.cluster
    for words in (["/bin/touch", str(tmp_path / "ran")], "/bin/true", [], None):
        given = {"command": words}
        reply = minion.call("x", "webfarm_preproduction.command", [PRE], given, 30)[PRE]
        assert reply.ok is False
        assert "nothing was run" in reply.error
    assert not (tmp_path / "ran").exists()
