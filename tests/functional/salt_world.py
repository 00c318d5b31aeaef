"""A Salt master and minions of their own on loopback, each in a process group that ends with it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import salt.config
import yaml
from loopback import NET, free_port, wait_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HOST = f"{NET}.1.6"


class SaltWorld:
    """Below ``home``: ``master/`` and a folder for each minion, with configuration and keys.

    The library is taken from this tree by PYTHONPATH, nothing is synced.
    """

    def __init__(self, home: Path, pillar: dict[str, Any], **master: Any) -> None:
        self.home = home
        self.publish, self.ret = free_port(HOST), free_port(HOST)
        self.daemons: list[subprocess.Popen[bytes]] = []
        roots = home / "pillar"
        roots.mkdir()
        (roots / "top.sls").write_text("base: {'*': [cluster]}\n")
        (roots / "cluster.sls").write_text(yaml.safe_dump({"webfarm": pillar}))
        self._config(
            "master",
            {
                "interface": HOST,
                "publish_port": self.publish,
                "ret_port": self.ret,
                "auto_accept": True,
                "worker_threads": 2,
                "pillar_roots": {"base": [str(roots)]},
                "engines_dirs": [str(ROOT / "_engines")],
                "runner_dirs": [str(ROOT / "_runners")],
                **master,
            },
        )

    def _config(self, name: str, content: dict[str, Any]) -> None:
        folder = self.home / name
        folder.mkdir()
        role = "master" if name == "master" else "minion"
        common = {"user": "root", "root_dir": str(folder), "log_level": "warning"}
        (folder / role).write_text(yaml.safe_dump({**common, **content}))

    def start_master(self) -> None:
        """Start it and wait until its bus is there."""
        self._start("salt-master", "master")
        wait_for(
            (Path(self.opts["sock_dir"]) / "master_event_pub.ipc").exists, "the master's bus", 180
        )

    def start_minion(self, name: str, **config: Any) -> None:
        """Start a minion and wait until the master has accepted its key."""
        self._config(
            name,
            {
                "id": name,
                "master": HOST,
                "publish_port": self.publish,
                "master_port": self.ret,
                "acceptance_wait_time": 1,
                **config,
            },
        )
        self._start("salt-minion", name)
        wait_for((self.accepted / name).exists, f"the key of {name} is accepted", 180)

    def _start(self, program: str, name: str) -> None:
        with (self.home / f"{name}.out").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(
                    [BIN / program, "-c", self.home / name],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT / "_utils")},
                )
            )

    def stop(self) -> None:
        """End all of it; nothing is asked."""
        for daemon in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(20)
        self.daemons.clear()

    @property
    def opts(self) -> dict[str, Any]:
        """The master's options."""
        return dict(salt.config.master_config(str(self.home / "master/master")))

    def minion_opts(self, name: str) -> dict[str, Any]:
        """A minion's options."""
        return dict(salt.config.minion_config(str(self.home / name / "minion")))

    def key(self, minion: str) -> Path:
        """A minion's private key."""
        return Path(self.minion_opts(minion)["pki_dir"]) / "minion.pem"

    @property
    def accepted(self) -> Path:
        """Where the master has the accepted keys."""
        return Path(self.opts["pki_dir"]) / "minions"

    def said(self, name: str) -> str:
        """What a daemon has logged."""
        log = Path(self.home / name / "var/log/salt" / ("master" if name == "master" else "minion"))
        written = log.read_text() if log.exists() else ""
        return (self.home / f"{name}.out").read_text() + written


@contextlib.contextmanager
def salt_world(pillar: dict[str, Any], **master: Any) -> Iterator[SaltWorld]:
    """A world that is gone at the end, whatever happened."""
    # a short path: Salt's IPC sockets lie below it, and those are limited to 107 bytes
    home = Path(tempfile.mkdtemp(prefix="wf-", dir="/tmp"))
    world = SaltWorld(home, pillar, **master)
    try:
        yield world
    finally:
        world.stop()

        def removed() -> bool:  # fails while one of the killed processes still writes there
            shutil.rmtree(home)
            return True

        wait_for(removed, f"{home} is removed")


def descendants(pid: int) -> Iterable[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found
