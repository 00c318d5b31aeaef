"""The modules, states and the runner do their work through Salt's own loaders."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import salt.runner
import webfarm
from loopback import wait_for
from server_world import NODE, NODES, WebNode
from versions_world import php_tree, rsync_daemon, webapp_tree

REPO = Path(__file__).parents[2]
SERVICE = """
import server_world
__virtualname__ = "service"
def __virtual__():
    return __virtualname__
def restart(name):
    return server_world.NODES[__opts__["web_node"]].restart(name)
"""


@pytest.fixture(autouse=True)
def one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webfarm, "renew", lambda _: None)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebNode]:
    """A server whose php-fpm can be restarted by a module in Salt's loader."""
    node = WebNode(tmp_path / "srv", tmp_path / "etc")
    monkeypatch.setitem(NODES, node.port, node)
    yield node
    node.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    store = tmp_path / "store"
    (store / "php").mkdir(parents=True)
    with rsync_daemon(tmp_path / "rsync", store) as url:
        yield url


@pytest.fixture
def call(tmp_path: Path, node: WebNode, pillar: dict[str, Any]) -> Callable[..., Any]:
    extra = tmp_path / "salt/modules/service.py"
    extra.parent.mkdir(parents=True)
    extra.write_text(SERVICE)
    (tmp_path / "salt/_modules").symlink_to("modules")
    pillar["sites"]["site1"]["farms"]["farm1"]["servers"][NODE]["port"] = node.port
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts.update(
        id=NODE,
        root_dir=str(tmp_path / "salt"),
        cachedir=str(tmp_path / "salt/cache"),
        conf_file=str(tmp_path / "salt/minion"),
        file_client="local",
        module_dirs=[str(tmp_path / "salt"), str(REPO)],
        states_dirs=[],
        pillar={"webfarm": pillar},
        pillar_roots={"base": [str(tmp_path / "pillar")]},
        webfarm_root=str(node.root),
        webfarm_config=str(node.config),
        web_node=node.port,
        grains={},
    )
    (tmp_path / "pillar").mkdir()
    (tmp_path / "pillar/top.sls").write_text(f"base: {{'{NODE}': [cluster]}}\n")
    import yaml

    (tmp_path / "pillar/cluster.sls").write_text(yaml.safe_dump({"webfarm": pillar}))
    return salt.client.Caller(mopts=opts).cmd


def state(call: Callable[..., Any], function: str, **arguments: Any) -> dict[str, Any]:
    done = call("state.single", function, **arguments)
    assert isinstance(done, dict), done
    (one,) = done.values()
    return one


def test_from_the_store_to_a_server_that_runs_it(
    tmp_path: Path, node: WebNode, source: str, call: Callable[..., Any]
) -> None:
    opts = salt.config.DEFAULT_MASTER_OPTS.copy()
    opts.update(
        runner_dirs=[str(REPO / "_runners")],
        webfarm_store=str(tmp_path / "store"),
        cachedir=str(tmp_path / "salt/cache-master"),
        root_dir=str(tmp_path / "salt"),
        quiet=True,
    )
    runner = salt.runner.Runner(opts).functions
    for version in ("8.2.32", "8.2.36"):
        tree = str(php_tree(tmp_path / f"php-{version}", version))
        assert runner["store.add"]("php", version, tree)["result"] == "added"
    for version in ("1", "2"):
        runner["store.add"]("webapp", version, str(webapp_tree(tmp_path / version, version)))
    digest = runner["store.digest"]("php", "8.2.32")
    assert runner["store.list"]()["php"]["8.2.32"] == digest
    assert runner["store.verify"]("php", "8.2.32") is True

    announced = state(
        call, "php_version.installed", name="8.2.32", source=source, digest=digest, test=True
    )
    assert announced["result"] is None
    assert call("php_version.list") == []
    for kind, version in (("php_version", "8.2.32"), ("webapp", "1")):
        done = state(call, f"{kind}.installed", name=version, source=source)
        assert (done["result"], done["changes"]) == (True, {kind: {"old": None, "new": version}})
        again = state(call, f"{kind}.installed", name=version, source=source)
        assert (again["result"], again["changes"]) == (True, {})
        done = state(call, f"{kind}.initialised", name=version)
        assert done["changes"] == {kind: {"old": None, "new": version}}
    assert node.restarts == 0

    assert call("webfarm_release.stage", "2026.11.2", "8.2.36", "2", source=source)["bytes"] > 0
    done = call("webfarm_release.switch", "2026.11.2", "8.2.36", "2")
    assert (done["release"], done["ready"], node.restarts) == ("2026.11.2", True, 1)

    def running() -> str | None:  # None: no answer in five seconds, on a machine that stood still
        return call("webfarm_release.status")["php"]

    assert wait_for(running, "/ready answers") == "8.2.36"
    assert call("webfarm_release.warm") == {
        "/": {"status": 200, "seconds": pytest.approx(0, abs=5)}
    }
    again = state(call, "php_version.initialised", name="8.2.32")
    assert (again["result"], again["changes"], node.running) == (True, {}, "8.2.36")
    back = state(call, "php_version.active", name="8.2.32")
    assert back["changes"] == {"php_version": {"old": "8.2.36", "new": "8.2.32"}}
    assert node.running == "8.2.32"
    assert state(call, "php_version.absent", name="8.2.32")["result"] is False
    gone = state(call, "php_version.absent", name="8.2.36", force=True)
    assert gone["changes"] == {"php_version": {"old": "8.2.36", "new": None}}


def test_the_default_source_is_the_pillars_store(call: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match=r"rsync://10\.77\.0\.2/webfarm"):
        call("php_version.install", "8.2.36", deadline=2)


@pytest.mark.parametrize(
    "function", ["php_version.activate", "webapp.remove", "webfarm_release.status"]
)
def test_a_bad_name_is_an_error_of_salt(call: Callable[..., Any], function: str) -> None:
    with pytest.raises(Exception, match="nothing was changed"):
        call(function, "a;b")
