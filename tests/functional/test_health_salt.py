"""The beacon webfarm_health as a minion's own code runs it, in either way of delivery."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import salt.beacons
import salt.config
import salt.utils.event
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from health_world import LoneSite, lone_site
from loopback import wait_for
from php_world import BALANCER, ROOT, WS1
from test_delivery import LOADER_FOLDERS, Salt
from webfarm import signed
from webfarm.health.settings import Options, options
from webfarm.rebalance import report
from webfarm.topology import parse

Event = dict[str, Any]


@pytest.fixture(scope="module")
def site() -> Iterator[LoneSite]:
    with lone_site() as found:
        yield found


def write_keys(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(65537, 2048)
    pem, format = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "minion.pem").write_bytes(
        key.private_bytes(pem, format, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "minion.pub").write_bytes(public)


class Minion:
    """The beacons of a minion, without the minion."""

    def __init__(self, site: LoneSite, home: Path, id: str = WS1) -> None:
        self.opts = salt.config.minion_config(None)
        self.opts.update(
            id=id,
            root_dir=str(home),
            cachedir=str(home / "cache"),
            pki_dir=str(home / "pki"),
            extension_modules=str(home / "extmods"),
            module_dirs=[str(ROOT)],
            grains={},
            pillar={"webfarm": site.topology},
        )
        self.config = [site.settings(heartbeat=1).options.model_dump(mode="json")]
        self.load()

    def load(self) -> None:
        """As the minion does when it starts, and after each refresh of its pillar."""
        self.beacons = salt.beacons.Beacon({**self.opts, "beacons": self.beacons_config}, {})

    @property
    def beacons_config(self) -> dict[str, Any]:
        return {"webfarm_health": [dict(part) for part in self.config]}

    def refresh(self) -> None:
        self.beacons.close_beacons()
        self.load()

    def tick(self) -> list[Event]:
        """What the minion's loop does once a second; returns what would go to the master."""
        return self.beacons.process(self.beacons_config, {}) or []

    def report(self, what: str, **expected: Any) -> Event:
        """The body of the first report that says what is expected; its signature is right."""

        def found() -> Event | None:
            for event in self.tick():
                assert event["tag"] == f"salt/beacon/{self.opts['id']}/webfarm_health/"
                data = event["data"]
                assert data.keys() == {"id", "report", "signature"}
                envelope = {"body": data["report"], "signature": data["signature"]}
                key = Path(self.opts["pki_dir"]) / "minion.pub"
                body = signed.open_(envelope, key, signed.REPORT)
                if expected.items() <= body.items():
                    return body
            return None

        return wait_for(found, what)


@pytest.fixture
def minion(site: LoneSite, tmp_path: Path) -> Iterator[Minion]:
    site.heal()
    write_keys(tmp_path / "pki")
    found = Minion(site, tmp_path)
    yield found
    found.beacons.close_beacons()
    no_threads_are_left()
    site.heal()


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("webfarm-health")]


def no_threads_are_left() -> None:
    wait_for(lambda: not threads(), "the sensors have ended")


def test_salt_sends_reports_that_the_minions_key_has_signed(minion: Minion) -> None:
    body = minion.report("a report", release="2026.11.9", memcached=True, critical=[])
    assert (body["v"], body["id"], body["children"]) == (1, WS1, 8)
    assert abs(body["at"] - time.time()) < 30


def test_php_fpm_killed_is_in_the_next_report(minion: Minion, site: LoneSite) -> None:
    minion.report("a report", critical=[])
    site.server.fpm.stop(signal.SIGKILL)
    minion.report("the death", critical=["php-fpm"])


def test_reports_go_on_in_order_over_a_refresh_of_the_beacons(minion: Minion) -> None:
    before = minion.report("a report")
    minion.refresh()
    after = minion.report("a report of the new beacon")
    assert (after["boot"], after["up"] > before["up"]) == (before["boot"], True)
    wait_for(lambda: len(threads()) == 6, "the old beacon's threads have ended")


def test_a_minion_that_is_no_member_of_a_farm_reports_nothing(
    site: LoneSite, tmp_path: Path
) -> None:
    for id in ("site1-lb1", "stranger"):
        minion = Minion(site, tmp_path, id)
        assert [minion.tick() for _ in range(3)] == [[], [], []]
    assert not threads()


def test_a_mistake_in_the_configuration_is_named(site: LoneSite, tmp_path: Path) -> None:
    minion = Minion(site, tmp_path)
    validate = minion.beacons.beacons["webfarm_health.validate"]
    assert validate([]) == (True, "Valid beacon configuration")
    assert validate([{"heartbeat": 5}, {"_beacon_name": "webfarm_health"}])[0]
    for config, name in (
        ([{"heartbeat": 0}], "beacons.webfarm_health.heartbeat"),
        ([{"hartbeat": 5}], "beacons.webfarm_health.hartbeat"),
        ([{"disks": ["../etc"]}], "beacons.webfarm_health.disks"),
        (["heartbeat"], "expected a list of mappings"),
    ):
        valid, why = validate(config)
        assert not valid
        assert name in why


def test_a_key_that_cannot_be_read_is_logged_once_and_ends_nothing(
    minion: Minion, caplog: pytest.LogCaptureFixture
) -> None:
    key = Path(minion.opts["pki_dir"]) / "minion.pem"
    kept = key.read_bytes()
    key.unlink()
    wait_for(lambda: minion.tick() or "minion.pem" in caplog.text, "the trouble is logged")
    assert minion.tick() == []
    assert caplog.text.count("webfarm_health reports nothing") == 1
    key.write_bytes(kept)
    minion.report("a report")


@pytest.mark.parametrize(("id", "reports"), [(WS1, True), ("site1-lb1", False)])
def test_the_state_minion_gives_the_beacon_to_the_servers(
    site: LoneSite, id: str, reports: bool
) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "salt"), undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = json.dumps
    here = parse(site.topology).node(id).model_dump(mode="json")
    text = environment.get_template("minion/files/webfarm.conf.jinja").render(
        salt={"webfarm_topology.node": lambda: here}
    )
    beacons = yaml.safe_load(text).get("beacons", {})
    assert list(beacons) == ["webfarm_health"] * reports
    for config in beacons.values():
        assert options(config) == Options()


SYNCED = """
import json, sys, salt.beacons, salt.config
home, data = sys.argv[1], json.loads(sys.argv[2])
assert not any("utils" in path for path in sys.path), sys.path
opts = salt.config.minion_config(None)
opts.update(id="site1-lb1", cachedir=home + "/cache", pki_dir=home + "/pki", grains={},
            extension_modules=home + "/extmods", pillar={"webfarm": data}, beacons={})
beacons = salt.beacons.Beacon(opts, {})
assert beacons.process({"webfarm_health": []}, {}) == [], "a balancer reports nothing"
import webfarm
print(webfarm.__file__)
"""


def test_the_beacon_finds_the_library_that_was_synced(site: LoneSite, tmp_path: Path) -> None:
    """Salt adds the synced library to the path for every other loader, not for the beacons'."""
    shutil.copytree(ROOT / "_utils", tmp_path / "extmods/utils")
    shutil.copytree(ROOT / "_beacons", tmp_path / "extmods/beacons")
    assert site.topology["sites"]["site1"]["balancers"]["site1-lb1"]["address"] == BALANCER
    done = subprocess.run(
        [sys.executable, "-c", SYNCED, str(tmp_path), json.dumps(site.topology)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "extmods/utils/webfarm/__init__.py")
    assert "rror" not in done.stderr


@pytest.fixture
def cluster(site: LoneSite) -> Iterator[Salt]:
    """A real master, and the server's real minion with the beacon in its configuration."""
    site.heal()
    home = Path(tempfile.mkdtemp(prefix="wf-", dir="/tmp"))  # IPC sockets need a short path
    found = Salt(home / "salt", Path(sys.executable).parent, site.topology, {})
    for folder in LOADER_FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, found.files / folder, ignore=ignored)
    options = site.settings().options.model_dump(mode="json")
    with (found.home / "minion").open("a") as minion:
        minion.write(yaml.safe_dump({"beacons": {"webfarm_health": [options]}}))
    try:
        found.start()
        yield found
    finally:
        found.stop()

        def removed() -> bool:  # fails while one of the killed processes still writes there
            shutil.rmtree(home)
            return True

        wait_for(removed, f"{home} is removed")
        site.heal()


def test_a_real_minion_reports_to_its_master_also_when_it_has_been_restarted(
    cluster: Salt, site: LoneSite
) -> None:
    opts = salt.config.master_config(str(cluster.home / "master"))
    key = Path(opts["pki_dir"]) / "minions" / WS1
    seen: list[report.Report] = []

    with salt.utils.event.get_event("master", opts["sock_dir"], opts=opts) as bus:

        def reported(what: str, *critical: str) -> report.Report:
            def received() -> report.Report | None:
                event = bus.get_event(wait=1, tag="salt/beacon/", full=True)
                if event is None:
                    return None
                assert event["tag"] == f"salt/beacon/{WS1}/webfarm_health/"
                data = event["data"]
                envelope = {"body": data["report"], "signature": data["signature"]}
                found = report.parse(signed.open_(envelope, key, signed.REPORT))
                assert not seen or (found.boot, found.up > seen[-1].up) == (seen[-1].boot, True)
                seen.append(found)
                return found if set(found.critical) == set(critical) else None

            return wait_for(received, what, 180)

        cluster.salt("saltutil.sync_all")
        reported("a report, as soon as the minion has the beacon")
        site.server.fpm.stop(signal.SIGKILL)
        reported("the death of php-fpm", "php-fpm")
        site.heal()
        reported("its return")

        [pidfile] = cluster.home.rglob("salt-minion.pid")
        worker = pidfile.read_text().strip()
        minion = cluster.daemons.pop()
        os.killpg(minion.pid, signal.SIGKILL)
        minion.wait(20)
        # until init has waited for its child, a new minion believes that one is running
        wait_for(lambda: not Path("/proc", worker).exists(), "it has ended")
        site.server.fpm.stop(signal.SIGKILL)
        with (cluster.home / "minion.out").open("ab") as log:
            command = [cluster.bin / "salt-minion", "-c", cluster.home]
            cluster.daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
        reported("the death of php-fpm while the minion was away", "php-fpm")
        site.heal()
        reported("its return")
