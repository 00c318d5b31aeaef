"""The machine beneath a web server: its services, and a reboot that happens once."""

from collections.abc import Sequence
from typing import Any

import pytest
from webfarm import osnode
from webfarm.errors import WebfarmError

BOOT = "0f0e0d0c-0b0a-0908-0706-050403020100"


class Systemd:
    """Answers as systemctl does; ``units`` maps a service to its states."""

    def __init__(self, **units: tuple[str, str]) -> None:
        self.units = units
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.asked.append(list(command))
        name = command[-1].removesuffix(".service").replace("-", "_")
        load, active = self.units.get(name, ("not-found", "inactive"))
        return f"LoadState={load}\nActiveState={active}\n" if "show" in command else ""


def test_a_service_that_is_not_installed_is_no_failure() -> None:
    systemd = Systemd(nginx=("loaded", "active"), memcached=("loaded", "failed"))
    assert osnode.failed(["nginx", "webfarm-php-fpm", "memcached"], systemd) == ["memcached"]


def test_a_restart_that_leaves_one_dead_says_which() -> None:
    systemd = Systemd(nginx=("loaded", "active"), memcached=("loaded", "failed"))
    with pytest.raises(WebfarmError, match="memcached did not start again"):
        osnode.restart(["nginx", "memcached"], systemd)
    assert ["systemctl", "restart", "--", "nginx.service", "memcached.service"] in systemd.asked


def test_a_reboot_is_asked_of_a_timer_that_outlives_this_process() -> None:
    systemd = Systemd()
    done = osnode.reboot(None, systemd, lambda: BOOT)
    assert done == {"boot_id": BOOT, "reboots": True}
    (command,) = systemd.asked
    assert command[0] == "systemd-run" and command[-2:] == ["systemctl", "reboot"]
    assert "--on-active=2s" in command


def test_a_reboot_that_was_done_already_is_not_done_again() -> None:
    systemd = Systemd()
    before = "1" + BOOT[1:]
    assert osnode.reboot(before, systemd, lambda: BOOT) == {"boot_id": BOOT, "reboots": False}
    assert systemd.asked == []


@pytest.mark.parametrize("boot_id", ["", "x", 7, BOOT + "\n", "../../etc", ["a"]])
def test_a_boot_id_is_checked(boot_id: Any) -> None:
    systemd = Systemd()
    with pytest.raises(WebfarmError, match="boot_id"):
        osnode.reboot(boot_id, systemd, lambda: BOOT)
    assert systemd.asked == []


@pytest.mark.parametrize(
    "units", ["nginx", 7, ["--now"], ["a b"], ["nginx;reboot"], [None], ["x" * 200], ["n"] * 51]
)
def test_nothing_but_names_of_services_reaches_systemctl(units: Any) -> None:
    with pytest.raises(WebfarmError, match="nothing was restarted"):
        osnode.check_units(units)


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(WebfarmError, match=r"`false` failed \(1\)"):
        osnode.run(["false"])
    with pytest.raises(WebfarmError, match="could not be run"):
        osnode.run(["/nonexistent/command"])


def test_the_boot_id_is_that_of_the_kernel() -> None:
    assert osnode._BOOT.fullmatch(osnode.boot_id())
