"""Both ways to deliver Webfarm work on a real master and minion: file server sync and the wheel."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.exceptions
import yaml
from loopback import NET, free_port, wait_for

HOST = f"{NET}.1.4"
ROOT = Path(__file__).parents[2]
MINION = "site1-farm1-ws1"
LOADER_FOLDERS = [
    name
    for name in ("_modules", "_states", "_runners", "_beacons", "_engines", "_utils")
    if (ROOT / name).is_dir()
]
PUBLIC_MODULES = sorted(p.stem for p in (ROOT / "_modules").glob("[!_]*.py"))
PUBLIC_RUNNERS = sorted(p.stem for p in (ROOT / "_runners").glob("[!_]*.py"))
PUBLIC_STATES = sorted(p.stem for p in (ROOT / "_states").glob("[!_]*.py"))


class Salt:
    """A master and a minion of their own on loopback, run from the Python in ``bin_dir``."""

    def __init__(
        self, home: Path, bin_dir: Path, pillar: dict[str, Any], master: dict[str, Any]
    ) -> None:
        self.home, self.bin = home, bin_dir
        self.files = home / "files"
        self.files.mkdir(parents=True)
        pillar_root = home / "pillar"
        pillar_root.mkdir()
        (pillar_root / "top.sls").write_text("base: {'*': [cluster]}\n")
        (pillar_root / "cluster.sls").write_text(yaml.safe_dump({"webfarm": pillar}))
        publish, ret = free_port(HOST), free_port(HOST)
        common = {"user": "root", "root_dir": str(home), "log_level": "error"}
        self._config(
            "master",
            {
                **common,
                "interface": HOST,
                "publish_port": publish,
                "ret_port": ret,
                "auto_accept": True,
                "worker_threads": 2,
                "gather_job_timeout": 2,
                "file_roots": {"base": [str(self.files)]},
                "pillar_roots": {"base": [str(pillar_root)]},
                **master,
            },
        )
        self._config(
            "minion",
            {
                **common,
                "id": MINION,
                "master": HOST,
                "publish_port": publish,
                "master_port": ret,
                "acceptance_wait_time": 1,
            },
        )
        self.daemons: list[subprocess.Popen[bytes]] = []

    def _config(self, name: str, content: dict[str, Any]) -> None:
        (self.home / name).write_text(yaml.safe_dump(content))

    def start(self) -> None:
        for name in ("master", "minion"):
            log = (self.home / f"{name}.out").open("wb")
            self.daemons.append(
                subprocess.Popen(
                    [self.bin / f"salt-{name}", "-c", self.home],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        wait_for(
            lambda: self.salt("test.ping", check=False), f"the minion of {self.home} answers", 180
        )

    def stop(self) -> None:
        for daemon in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(20)

    def salt(self, function: str, check: bool = True) -> Any:
        """What the minion answers; None when it does not and that is not checked."""
        try:
            with salt.client.LocalClient(str(self.home / "master")) as client:
                answer = client.cmd(MINION, function, timeout=90 if check else 2)
        except salt.exceptions.SaltException:
            if check:
                raise
            answer = {}
        assert MINION in answer or not check, (self.home / "minion.out").read_text()[-2000:]
        return answer.get(MINION)

    def runner(self, function: str) -> Any:
        """What the runner returns, with the Python of ``bin_dir``."""
        command = [str(self.bin / "salt-run"), "-c", str(self.home), "--out=json", function]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def assert_everything_is_loaded(one: Salt) -> None:
    functions = one.salt("sys.list_functions")
    for module in PUBLIC_MODULES:
        assert any(f.startswith(f"{module}.") for f in functions), f"{module} is not loaded"
    states = one.salt("sys.list_state_functions")
    for state in PUBLIC_STATES:
        assert any(f.startswith(f"{state}.") for f in states), f"state {state} is not loaded"
    runners = one.runner("doc.runner")
    for runner in PUBLIC_RUNNERS:
        assert any(f.startswith(f"{runner}.") for f in runners), f"runner {runner} is not loaded"
    assert one.salt("webfarm_topology.node")["farm"] == "farm1"


@pytest.fixture
def make_salt() -> Iterator[Callable[..., Salt]]:
    made: list[Salt] = []
    # a short path: Salt's IPC sockets lie below it, and those are limited to 107 bytes
    home = Path(tempfile.mkdtemp(prefix="wf-", dir="/tmp"))

    def make(bin_dir: Path, pillar: dict[str, Any], **master: Any) -> Salt:
        made.append(Salt(home / "salt", bin_dir, pillar, master))
        return made[-1]

    yield make
    for one in made:
        one.stop()

    def removed() -> bool:  # fails while one of the killed processes still writes there
        shutil.rmtree(home)
        return True

    wait_for(removed, f"{home} is removed")


def test_the_synced_tree_works_and_a_library_synced_again_is_used_at_once(
    make_salt: Callable[..., Salt], pillar: dict[str, Any]
) -> None:
    cluster = make_salt(Path(sys.executable).parent, pillar)
    for folder in LOADER_FOLDERS:
        shutil.copytree(
            ROOT / folder, cluster.files / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    cluster.start()
    cluster.salt("saltutil.sync_all")
    cluster.runner("saltutil.sync_all")
    assert_everything_is_loaded(cluster)

    before = cluster.salt("webfarm_topology.version")
    library = cluster.files / "_utils/webfarm/__init__.py"
    library.write_text(library.read_text().replace(before, "99.0.0"))
    module = cluster.files / "_modules/webfarm_topology.py"
    module.write_text(
        module.read_text() + "\n# a newer module, so that the loader reads it again\n"
    )
    cluster.salt("saltutil.sync_all")
    assert cluster.salt("webfarm_topology.version") == "99.0.0"


def test_the_wheel_works_with_nothing_to_sync(
    make_salt: Callable[..., Salt], pillar: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in (*LOADER_FOLDERS, "saltext_webfarm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "venv"
    # Salt itself comes from the tests' own environment; only the wheel is new here
    venv.EnvBuilder(with_pip=False).create(home)
    site = next((home / "lib").glob("python3*/site-packages"))
    (site / "salt.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n"
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"),
            *("--target", str(site), str(source)),
        ],
        check=True,
        timeout=300,
    )
    for script in ("salt", "salt-run", "salt-master", "salt-minion", "salt-call"):
        text = (Path(sys.executable).parent / script).read_text()
        (home / "bin" / script).write_text(f"#!{home}/bin/python\n" + text.partition("\n")[2])
        (home / "bin" / script).chmod(0o755)
    cluster = make_salt(home / "bin", pillar)
    cluster.start()
    assert_everything_is_loaded(cluster)
    assert str(site) in str(cluster.salt("webfarm_topology.where"))


RUNNER = """
import pathlib
def rejoin(minion):
    pathlib.Path({mark!r}).write_text(minion)
"""


def test_a_minion_that_starts_gets_the_modules_and_is_brought_back(
    make_salt: Callable[..., Salt], pillar: dict[str, Any], tmp_path: Path
) -> None:
    mark, runners = tmp_path / "rejoined", tmp_path / "runners"
    runners.mkdir()
    (runners / "upgrade.py").write_text(RUNNER.format(mark=str(mark)))
    cluster = make_salt(
        Path(sys.executable).parent,
        pillar,
        runner_dirs=[str(runners)],
        reactor=[{"salt/minion/*/start": ["salt://reactor/minion_start.sls"]}],
    )
    for folder in ("_modules", "_utils", "reactor"):
        shutil.copytree(
            ROOT / folder, cluster.files / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    cluster.start()
    wait_for(mark.exists, "the runner is called", 180)

    def synced() -> bool:
        return isinstance(cluster.salt("webfarm_topology.node", check=False), dict)

    wait_for(synced, "the modules are synced", 180)
    assert mark.read_text() == MINION


REACTOR = """
import json, sys
import salt.config, salt.loader, salt.state, salt.utils.reactor
home, sls = sys.argv[1:3]
opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
    "root_dir": home, "cachedir": home, "sock_dir": home, "pki_dir": home,
    "extension_modules": home, "conf_file": home + "/master",
    "reactor": [{"salt/minion/*/start": [sls]}],
}
reactor = salt.utils.reactor.Reactor(opts)
salt.state.Compiler.__init__(reactor, opts, salt.loader.render(opts, {}))
tag = "salt/minion/x/start"
print(json.dumps([
    reactor.reactions(tag, {"id": id}, reactor.list_reactors(tag)) for id in json.load(sys.stdin)
]))
"""


def test_the_id_of_an_event_reaches_its_functions_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    """A minion can send events with any id in them."""
    forged = ["", "*", "a or *", "a\n- tgt: '*'", "{{ 7 * 7 }}", 'a"', "a,b", "a\n", "../x"]
    done = subprocess.run(
        [sys.executable, "-c", REACTOR, str(tmp_path), str(ROOT / "reactor/minion_start.sls")],
        input=json.dumps([MINION, *forged]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to render" not in done.stderr
    real, *others = json.loads(done.stdout)
    assert others == [[]] * len(forged)
    by_function = {chunk["fun"]: chunk for chunk in real}
    assert by_function["upgrade.rejoin"]["args"] == [{"minion": MINION}]
    assert by_function["saltutil.sync_all"]["tgt"] == MINION
    compound = f"L@{MINION} and P@webfarm:role:(primary|balancer)"
    assert by_function["haproxy_runtime.reconcile"]["tgt"] == compound


def test_a_module_synced_over_an_installed_wheel_is_refused(tmp_path: Path) -> None:
    synced = tmp_path / "extmods/modules/haproxy_runtime.py"
    synced.parent.mkdir(parents=True)
    synced.write_text("import webfarm\nwebfarm.renew(__file__)\n")
    done = subprocess.run(
        [sys.executable, str(synced)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "_utils")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Webfarm is installed twice" in done.stderr
