"""The module's own functions in a container whose root is the folder ``NODE/@`` of a btrfs.

The container is started from the path again at each boot; ``/.webfarm`` in it is ``NODE``.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from btrfs_world import BtrfsMachine, btrfs

REPOSITORY = Path(__file__).parents[2]
CALL = Path(__file__).with_name("snapshot_call.py")
MACHINE = "webfarm-snapshots"
# one boot: a process that calls each line of its standard input, and answers with a line each
INIT = """
import json, subprocess, sys
for line in sys.stdin:
    done = subprocess.run(json.loads(line), capture_output=True, text=True)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


class Container:
    """A machine in systemd-nspawn: a boot is a new container from the path of its root."""

    def __init__(self, disk: BtrfsMachine, pillar: dict[str, Any]) -> None:
        self.disk = disk
        subprocess.run(["umount", disk.root], check=True)
        pillar["snapshots"] = {"provider": "btrfs"}
        given = {"pillar": pillar, "opts": {"id": "site1-farm1-ws1"}}
        (disk.node / "given.json").write_text(json.dumps(given))
        for name in ("etc", "proc", "sys", "dev", "run", "tmp", "root", ".webfarm", "usr"):
            (disk.at / name).mkdir(exist_ok=True)
        (disk.at / "etc/os-release").write_text("ID=test\n")
        for name in ("bin", "sbin", "lib", "lib64"):
            (disk.at / name).symlink_to(f"usr/{name}")
        (disk.at / "etc/product").write_text("good")
        self.bind = "norbind"  # else the mount of the root would come along, as a mount on @
        self.process: subprocess.Popen[str] | None = None

    def boot(self) -> None:
        self.off()
        prefix = str(Path(sys.prefix).resolve())  # an environment may be a symlink
        outside = {str(REPOSITORY), sys.prefix, prefix, sys.base_prefix, "/usr"}
        top = [
            one
            for one in outside
            if not any(f"{one}/".startswith(f"{o}/") for o in outside - {one})
        ]
        self.process = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", f"--directory={self.disk.at}", "--as-pid2"),
                *("--register=no", "--keep-unit", "--private-network", "--pipe"),
                *(f"--machine={MACHINE}", "--link-journal=no", "--resolv-conf=off"),
                *("--timezone=off", f"--bind={self.disk.node}:/.webfarm:{self.bind}"),
                *(f"--bind-ro={one}" for one in top),
                *(sys.executable, "-c", INIT),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def off(self) -> None:
        if self.process is not None:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.close()
            try:
                assert self.process.wait(60) == 0
            finally:
                self.process.kill()
                self.process.wait()
                self.process.stdout.close()
                self.process = None
                for left in Path("/run/systemd/nspawn").glob(f"*/{MACHINE}"):
                    shutil.rmtree(left)

    def run(self, *command: str) -> str:
        assert self.process and self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        code, said, complaints = json.loads(self.process.stdout.readline())
        assert code == 0, complaints
        return said

    def call(self, function: str, **arguments: object) -> Any:
        """What ``webfarm_snapshot.FUNCTION`` answers in the container."""
        file = "/.webfarm/given.json"
        command = (sys.executable, str(CALL), str(REPOSITORY), file, function)
        return json.loads(self.run(*command, json.dumps(arguments)))

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text)


@pytest.fixture
def container(tmp_path: Path, pillar: dict[str, Any]) -> Iterator[Container]:
    with btrfs(tmp_path) as device:
        machine = Container(BtrfsMachine(tmp_path, device), pillar)
        try:
            machine.boot()
            yield machine
        finally:
            machine.off()


def test_a_broken_container_is_good_after_the_restore_and_a_boot(container: Container) -> None:
    assert container.call("space")["ok"]
    assert container.call("take", name="before")["taken"]
    container.write("/etc/product", "broken")
    container.write("/var/lib/webfarm/holds/site1", "200\n")
    container.write("/var/log/journal/system", "it broke")
    assert container.call("restore", name="before")["reboot"]
    assert container.run("cat", "/etc/product") == "broken"
    assert container.call("status")["waiting"] == "before"
    container.boot()
    assert container.run("cat", "/etc/product") == "good"
    assert container.run("cat", "/var/lib/webfarm/holds/site1") == "200\n"
    assert container.run("cat", "/var/log/journal/system") == "it broke"
    status = container.call("status")
    assert (status["provider"], status["restored"], status["waiting"]) == ("btrfs", "before", None)
    (aside,) = status["aside"]
    assert container.run("cat", f"/.webfarm/@.{aside['name']}/etc/product") == "broken"
    assert [one["name"] for one in container.call("list")] == ["before"]
    # and once more, from there
    container.write("/etc/product", "broken again")
    container.call("restore", name="before")
    container.boot()
    assert container.run("cat", "/etc/product") == "good"
    assert container.call("drop", name=aside["name"])["dropped"]
    assert len(container.call("status")["aside"]) == 1
    assert container.call("expire") == {"dropped": []}


def test_a_mount_on_the_root_that_could_not_be_renamed_is_found_before(
    container: Container,
) -> None:
    container.bind = "rbind"
    container.boot()
    refused = container.call("take", name="before")
    assert refused["error"] == "SnapshotError" and "is a mount point" in refused["message"]
    assert container.call("list") == []


def test_a_rollout_that_has_lost_its_site_changes_no_snapshot(container: Container) -> None:
    folder = {"webfarm_holds": "/var/lib/webfarm/holds"}
    given = json.loads((container.disk.node / "given.json").read_text())
    given["opts"].update(folder)
    (container.disk.node / "given.json").write_text(json.dumps(given))
    container.write("/var/lib/webfarm/holds/site1", "2000\n")
    for function in ("take", "restore", "drop"):
        refused = container.call(function, name="before", hold="site1:1000.1")
        assert refused["error"] == "StaleHold" and "nothing was changed" in refused["message"]
    for function in ("expire", "carry"):
        assert container.call(function, hold="site1:1000.1")["error"] == "StaleHold"
    # the newest, but it has not looked
    assert container.call("take", name="before", hold="site1:2000.5")["error"] == "StaleLook"
    assert container.call("list") == []
