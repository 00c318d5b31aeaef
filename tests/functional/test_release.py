"""A web server is switched as a whole and proved, or it is as before; a kill leaves no lie."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webfarm
import webfarm.server
from server_world import WebNode
from versions_world import add_php, add_webapp, contents, rsync_daemon, write
from webfarm import ready, releasefile
from webfarm.errors import WebfarmError
from webfarm.hold import StaleHold
from webfarm.releasefile import NameInUse
from webfarm.server import WebServer
from webfarm.store import Store
from webfarm.switch import SwitchError
from webfarm.trees import Damaged, Links, VersionError
from webfarm.versions import Reserve

REPO = Path(__file__).parents[2]
OLD = ("2026.11.1", "8.2.32", "1")
NEW = ("2026.11.2", "8.2.36", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Only read by the tests here."""
    home = tmp_path_factory.mktemp("store")
    store = Store(home / "store")
    for _, php, webapp in (OLD, NEW):
        add_php(store, home / "sources", php)
        add_webapp(store, home / "sources", webapp)
    return store


@pytest.fixture(scope="module")
def source(store: Store) -> Iterator[str]:
    with rsync_daemon(store.root.parent / "rsync", store.root) as url:
        yield url


@pytest.fixture
def node(tmp_path: Path) -> Iterator[WebNode]:
    node = WebNode(tmp_path / "srv", tmp_path / "etc")
    yield node
    node.close()


class Module:
    """The module `webfarm_release` (or another) as Salt's loader would present it."""

    def __init__(self, name: str, node: WebNode) -> None:
        spec = importlib.util.spec_from_file_location(name, REPO / f"_modules/{name}.py")
        assert spec and spec.loader
        self.module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(webfarm, "renew", lambda _: None)  # one library, whoever edits it now
            spec.loader.exec_module(self.module)
        self.module.__opts__ = {  # type: ignore[attr-defined]
            "webfarm_root": str(node.root),
            "webfarm_config": str(node.config),
            "webfarm_holds": str(node.root / "holds"),
        }
        self.module.__salt__ = node.salt()  # type: ignore[attr-defined]
        self.module.__pillar__ = {}  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def release(node: WebNode, monkeypatch: pytest.MonkeyPatch) -> Module:
    # a restart has ended when it returns, so the first answer proves it or nothing will
    monkeypatch.setattr(webfarm.server, "SWITCH_SECONDS", 0.5)
    return Module("webfarm_release", node)


@pytest.fixture(scope="module")
def staged(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a server that was switched to the old release, with the new one staged."""
    home = tmp_path_factory.mktemp("staged")
    node = WebNode(home / "srv", home / "etc")
    release = Module("webfarm_release", node)
    release.stage(*OLD, source=source)
    release.switch(*OLD)
    release.stage(*NEW, source=source)
    node.close()
    return home


@pytest.fixture
def in_service(release: Module, staged: Path, node: WebNode) -> Module:
    """A server that runs the old release, with the new one staged."""
    for folder, copy in ((staged / "srv", node.root), (staged / "etc", node.config)):
        subprocess.run(["cp", "--archive", "--no-target-directory", folder, copy], check=True)
    node.running = OLD[1]
    return release


def links(node: WebNode) -> dict[str, Links]:
    server = WebServer({"webfarm_root": str(node.root)}, {}, {})
    return {kind: versions.links() for kind, versions in server.versions.items()}


# -- stage -------------------------------------------------------------------------------------


def test_staging_installs_both_and_enters_the_pair(
    release: Module, source: str, node: WebNode
) -> None:
    first = release.stage(*OLD, source=source)
    assert (first["php"], first["webapp"]) == ("installed", "installed")
    assert first["bytes"] > 0
    assert release.stage(*OLD, source=source) == {"php": "present", "webapp": "present", "bytes": 0}
    text = (node.config / "releases.php").read_text()
    assert text == "<?php\nreturn [\n    '8.2.32+1' => '2026.11.1',\n];\n"
    assert (node.config / "releases.php").stat().st_mode & 0o7777 == 0o644
    assert links(node) == {"php": Links(None, None), "webapp": Links(None, None)}
    assert node.restarts == 0


def test_staging_takes_the_digests_it_is_given(release: Module, store: Store, source: str) -> None:
    digests = {"php": store.digest("php", "8.2.32"), "webapp": store.digest("webapp", "1")}
    assert release.stage(*OLD, digests=digests, source=source)["php"] == "installed"
    with pytest.raises(Damaged):
        release.stage(*NEW, digests={"php": "0" * 64}, source=source)
    with pytest.raises(WebfarmError, match="keys php and webapp only"):
        release.stage(*NEW, digests={"PHP": "0" * 64}, source=source)


def test_staging_keeps_what_highstate_wrote(release: Module, source: str, node: WebNode) -> None:
    path = node.config / "releases.php"
    path.write_text("<?php\nreturn [\"8.2.32+1\" => \"2026.11.1\",\n  '7.4+0'=>'2020.1'];\n")
    release.stage(*NEW, source=source)
    assert releasefile.read(path) == {
        "8.2.32+1": "2026.11.1",
        "7.4+0": "2020.1",
        "8.2.36+2": "2026.11.2",
    }


def test_what_is_entered_already_is_not_rewritten(
    release: Module, source: str, node: WebNode
) -> None:
    path = node.config / "releases.php"
    path.write_text("<?php return ['8.2.32+1' => '2026.11.1'];  // hand-made\n")
    release.stage(*OLD, source=source)
    assert "hand-made" in path.read_text()


def test_a_release_that_runs_does_not_change_its_meaning(
    in_service: Module, source: str, node: WebNode
) -> None:
    before = (node.config / "releases.php").read_text()
    with pytest.raises(NameInUse, match=r"runs 8.2.32\+1 as release 2026.11.1"):
        in_service.stage(OLD[0], NEW[1], NEW[2], source=source)  # the name for another pair
    with pytest.raises(NameInUse):
        in_service.stage("2027.1", OLD[1], OLD[2], source=source)  # another name for the pair
    assert (node.config / "releases.php").read_text() == before


def damage(node: WebNode, kind: str, version: str) -> None:
    (tree,) = (node.root / kind / "versions" / version).glob("*/index.php")
    os.truncate(tree, 0)


@pytest.mark.parametrize(("which", "restarts"), [(OLD, 1), (NEW, 0)], ids=["in use", "staged"])
def test_a_damaged_tree_is_replaced_and_what_runs_it_is_restarted(
    in_service: Module, source: str, node: WebNode, which: tuple[str, str, str], restarts: int
) -> None:
    damage(node, "webapp", which[2])
    with pytest.raises(Damaged, match="content differs"):
        in_service.stage(*which, source=source)
    done = in_service.stage(*which, source=source, verify=True)
    assert (done["php"], done["webapp"]) == ("present", "replaced")
    assert node.restarts == restarts
    assert in_service.stage(*which, source=source, verify=True) == {
        **{"php": "present", "webapp": "present"},
        "bytes": 0,
    }
    assert node.restarts == restarts
    assert in_service.status()["release"] == OLD[0]


# -- holds -------------------------------------------------------------------------------------


def test_a_rollout_that_was_superseded_changes_nothing_here(
    in_service: Module, source: str, node: WebNode
) -> None:
    in_service.status(hold="site1:7")
    assert in_service.switch(*NEW, hold="site1:7.1")["release"] == NEW[0]
    assert in_service.status(hold="site1:8")["release"] == NEW[0]
    damage(node, "webapp", NEW[2])
    before = contents(node.root)
    for late in (
        lambda: in_service.switch(*OLD, hold="site1:7"),
        lambda: in_service.stage("2026.11.3", "8.2.36", "1", source=source, hold="site1:7"),
        lambda: in_service.stage(*NEW, source=source, hold="site1:7", verify=True),
        lambda: in_service.status(hold="site1:7"),
    ):
        with pytest.raises(StaleHold, match="site1:8 does; nothing was changed"):
            late()
    assert contents(node.root) == before
    assert node.restarts == 1
    assert in_service.switch(*OLD)["release"] == OLD[0]  # by hand


# -- switch ------------------------------------------------------------------------------------


def test_a_switch_moves_both_restarts_once_and_is_proved(in_service: Module, node: WebNode) -> None:
    done = in_service.switch(*NEW)
    assert (done["release"], done["php"], done["webapp"]) == NEW
    assert done["ready"] is True
    assert node.restarts == 1
    assert links(node) == {"php": Links("8.2.36", "8.2.32"), "webapp": Links("2", "1")}
    assert len(done["boot_id"]) == 36


def test_switched_already_nothing_is_restarted(in_service: Module, node: WebNode) -> None:
    in_service.switch(*NEW)
    in_service.switch(*NEW)
    assert node.restarts == 1


def test_a_release_that_is_not_installed_is_refused(in_service: Module, node: WebNode) -> None:
    before = contents(node.root)
    with pytest.raises(VersionError, match="webapp 3 is not installed"):
        in_service.switch("2026.11.3", "8.2.36", "3")
    assert contents(node.root) == before
    assert node.restarts == 0


def test_a_pair_of_trees_that_were_there_already_needs_no_staging(in_service: Module) -> None:
    assert in_service.switch("2026.11.9", "8.2.36", "1")["release"] == "2026.11.9"


def test_a_php_that_does_not_come_up_is_taken_back(in_service: Module, node: WebNode) -> None:
    before = links(node)
    node.broken = {"8.2.36"}
    with pytest.raises(SwitchError) as raised:
        in_service.switch(*NEW)
    message = str(raised.value)
    assert "could not be switched to php 8.2.36, webapp 2" in message
    assert "502" in message
    assert "It runs php 8.2.32, webapp 1 again" in message
    assert "php-fpm said" in message
    assert links(node) == before
    assert in_service.status(OLD[0])["ready"] is True
    assert node.restarts == 2


def test_what_php_fpm_said_is_in_the_error(
    in_service: Module, node: WebNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webfarm.server, "_journal", lambda _: "unable to bind listening socket")
    node.broken = {"8.2.36"}
    with pytest.raises(SwitchError, match="unable to bind listening socket"):
        in_service.switch(*NEW)


def test_when_going_back_fails_too_the_error_says_so(in_service: Module, node: WebNode) -> None:
    node.refuses_restart = True
    with pytest.raises(SwitchError, match=r"FAILED too .* needs a person"):
        in_service.switch(*NEW)
    assert links(node)["php"].current == "8.2.32"


def test_a_restart_that_raises_is_taken_back(in_service: Module, node: WebNode) -> None:
    calls: list[str] = []

    def restart(unit: str) -> bool:
        calls.append(unit)
        if len(calls) == 1:
            raise RuntimeError("Job for webfarm-php-fpm.service failed")
        return node.restart(unit)

    in_service.module.__salt__["service.restart"] = restart  # type: ignore[attr-defined]
    with pytest.raises(SwitchError, match=r"Job for webfarm-php-fpm.*as before"):
        in_service.switch(*NEW)
    assert in_service.status()["release"] == OLD[0]


def test_a_first_switch_that_fails_leaves_no_link(
    release: Module, source: str, node: WebNode
) -> None:
    release.stage(*OLD, source=source)
    node.broken = {"8.2.32"}
    with pytest.raises(SwitchError, match="symlinks are as before"):
        release.switch(*OLD)
    assert links(node) == {"php": Links(None, None), "webapp": Links(None, None)}


def test_links_that_were_right_with_a_dead_php_are_restarted(
    in_service: Module, node: WebNode
) -> None:
    node.running = None
    assert in_service.switch(*OLD)["ready"] is True
    assert node.restarts == 1


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from server_world import WebNode
from webfarm import files, switch
from webfarm.server import WebServer
from webfarm.versions import Versions
root, config, moment = sys.argv[3], sys.argv[4], int(sys.argv[5])
calls = 0
def dies(function):
    def wrapped(*args, **kwargs):
        global calls
        result = function(*args, **kwargs)
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
for name in ("symlink", "rename"):
    setattr(os, name, dies(getattr(os, name)))
class Node:
    @staticmethod
    def restart(unit): return True
salt = {"service.restart": dies(Node.restart), "webfarm_topology.node": lambda: {
    "id": "ws", "role": "server", "node": {"port": 1}}}
server = WebServer({"webfarm_root": root, "webfarm_config": config}, salt, {})
server.switch().release("2026.11.2", "8.2.36", "2")
"""


@pytest.mark.parametrize("moment", range(1, 10))
def test_killed_at_any_instant_the_links_name_whole_versions_and_the_next_switch_repairs(
    in_service: Module, node: WebNode, moment: int
) -> None:
    """Instants: after each symlink(2), rename(2) and restart; 9 of them make a switch."""
    here = str(Path(__file__).parent)
    places = [str(REPO / "_utils"), here, str(node.root), str(node.config), str(moment)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *places], timeout=30)
    assert killed.returncode == -signal.SIGKILL
    after = links(node)
    assert after["php"].current in ("8.2.32", "8.2.36")
    assert after["webapp"].current in ("1", "2")
    said = in_service.status(OLD[0])
    runs_old = (said["php"], said["webapp"]) == OLD[1:]
    assert said["ready"] is runs_old  # a mixed pair is no release
    assert in_service.switch(*NEW)["release"] == NEW[0]
    assert in_service.switch(*OLD)["release"] == OLD[0]


# -- status and warm ---------------------------------------------------------------------------


def test_the_status_of_a_server_in_service(in_service: Module, node: WebNode) -> None:
    done = in_service.status()
    assert (done["release"], done["php"], done["webapp"], done["ready"]) == (*OLD, True)
    assert done["php_current"] == "8.2.32"
    assert done["webapp_versions"] == ["1", "2"]
    wrong = in_service.status("2026.11.2")
    assert wrong["ready"] is False
    assert "2026.11.2 is expected" in wrong["why"]


def test_the_status_of_a_bare_server_is_no_error(release: Module) -> None:
    done = release.status()
    assert (done["release"], done["php"], done["ready"]) == (None, None, False)
    assert done["php_versions"] == []
    assert done["why"]


def test_a_port_where_nobody_listens_is_no_error(release: Module, node: WebNode) -> None:
    node.close()
    assert "no answer from 127.0.0.1" in release.status()["why"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff\xff", b"{" * 100_000])
def test_nonsense_from_ready_is_not_ready(
    release: Module, node: WebNode, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(node, "answer", lambda *_: (200, body))
    done = release.status("2026.11.1")
    assert done["ready"] is False
    assert "without JSON" in done["why"]


def test_values_of_the_wrong_type_are_not_believed(
    release: Module, node: WebNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"release": 7, "php": ["x"], "webapp": null, "ready": "yes"}'
    monkeypatch.setattr(node, "answer", lambda *_: (200, body))
    answer = ready.ask(node.port, "2026.11.1")
    assert answer == ready.Ready(None, None, None, False, "")


def test_warming_asks_for_each_page(in_service: Module, node: WebNode) -> None:
    node.asked.clear()
    done = in_service.warm(["/", "/a?b=c", "/missing"], requests=3)
    assert [status["status"] for status in done.values()] == [200, 200, 404]
    assert len(node.asked) == 9


def test_a_page_that_fails_is_an_error(in_service: Module, node: WebNode) -> None:
    node.running = None
    with pytest.raises(WebfarmError, match=r"/ answered 502 .*Bad Gateway"):
        in_service.warm()


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nHost: x", "/é", "/" + "x" * 10_000, 7])
def test_only_plain_paths_are_asked_for(in_service: Module, node: WebNode, path: object) -> None:
    node.asked.clear()
    with pytest.raises(WebfarmError, match="nothing was sent"):
        in_service.warm([path])
    assert node.asked == []


# -- one kind alone ----------------------------------------------------------------------------


@pytest.fixture
def php(in_service: Module, node: WebNode) -> Module:
    return Module("php_version", node)


def test_activating_restarts_and_is_proved_by_the_version(php: Module, node: WebNode) -> None:
    assert php.activate("8.2.36") == {"changed": True, "old": "8.2.32", "new": "8.2.36"}
    assert node.running == "8.2.36"
    assert php.activate("8.2.36")["changed"] is False
    assert (node.restarts, php.current(), php.previous()) == (1, "8.2.36", "8.2.32")
    assert php.rollback() == {"changed": True, "old": "8.2.36", "new": "8.2.32"}
    assert node.running == "8.2.32"
    assert php.rollback()["new"] == "8.2.36"


def test_a_php_that_fails_alone_is_taken_back(php: Module, node: WebNode) -> None:
    node.broken = {"8.2.36"}
    with pytest.raises(SwitchError, match=r"It runs php 8\.2\.32 again"):
        php.activate("8.2.36")
    assert (node.running, php.current()) == ("8.2.32", "8.2.32")


def test_the_webapp_alone(in_service: Module, node: WebNode) -> None:
    webapp = Module("webapp", node)
    assert webapp.activate("2")["changed"] is True
    assert webapp.list_() == ["1", "2"]
    assert in_service.status()["release"] is None  # 8.2.32+2 is no release
    assert webapp.verify("2")["version"] == "2"
    write(node.root, "webapp/versions/2/public/extra", "x")
    with pytest.raises(Damaged, match="public/extra: unexpected"):
        webapp.verify("2")
    webapp.rollback()
    assert webapp.remove("2", force=True) is True


def test_initialising_restarts_nothing_and_changes_nothing_later(
    release: Module, source: str, node: WebNode
) -> None:
    release.stage(*OLD, source=source)
    release.stage(*NEW, source=source)
    php = Module("php_version", node)
    assert php.initialise("8.2.32") == {"changed": True, "old": None, "new": "8.2.32"}
    assert php.initialise("8.2.36") == {"changed": False, "old": "8.2.32", "new": "8.2.32"}
    assert node.restarts == 0
    assert os.readlink(node.root / "php/current") == "versions/8.2.32"


def test_without_a_store_in_the_pillar_the_remedy_is_said(release: Module) -> None:
    with pytest.raises(WebfarmError, match="no webfarm:store:address"):
        release.stage(*OLD)


def test_the_reserve_is_the_minions_setting(node: WebNode) -> None:
    def reserve(given: object) -> Reserve:
        opts = {"webfarm_root": str(node.root), "webfarm_reserve": given}
        return WebServer(opts, {}, {}).versions["php"].reserve

    assert reserve({}) == Reserve(0.05, 256 * 1024 * 1024)
    assert reserve({"percent": 10, "mib": 1}) == Reserve(0.1, 1024 * 1024)
    for bad in (7, None, {"percent": 100}, {"mib": -1}, {"mb": 1}, {"percent": "5"}):
        with pytest.raises(WebfarmError, match="webfarm_reserve"):
            reserve(bad)
