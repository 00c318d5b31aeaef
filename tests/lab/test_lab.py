"""The words of the lab itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from lab_words import Lab

VICTIM = "site2-farm2-ws2"
DEADLINE = 60.0


def eventually(probe: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not probe():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.5)


def pings(lab: Lab, node: str) -> bool:
    command = ["ping", "-c1", "-W1", lab.address(node)]
    return lab.exec("master", *command, check=False).returncode == 0


def test_a_second_up_finds_the_lab_and_builds_nothing(lab: Lab) -> None:
    done = lab("up", "--size", "small")
    assert "up already" in done.stderr
    assert "highstate" not in done.stderr


def test_every_node_is_on(lab: Lab) -> None:
    assert {node["power"] for node in lab.nodes} == {"on"}
    names = {node["node"] for node in lab.nodes}
    assert {"master", "lb1", "site1-lb1", "site1-lb2", "site2-lb1", "client"} <= names


def test_every_minion_answers(lab: Lab) -> None:
    minions = {node["node"] for node in lab.nodes} - {"client"}
    assert lab.salt("*", "test.ping") == dict.fromkeys(minions, True)


def test_exec_passes_streams_and_exit_code_through(lab: Lab) -> None:
    script = "cat; echo oops >&2; exit 7"
    done = lab("exec", "client", "--", "sh", "-c", script, stdin="hello", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("hello", "oops\n", 7)


def test_exec_refuses_an_unknown_node_and_names_the_known(lab: Lab) -> None:
    done = lab("exec", "nowhere", "--", "true", check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr and "client" in done.stderr


@pytest.mark.parametrize("name", ["public", "lb1", "client"])
def test_address_is_reachable_from_the_client(lab: Lab, name: str) -> None:
    lab.exec("client", "ping", "-c1", "-W2", lab.address(name))


def test_a_node_sees_neither_the_host_nor_its_processes(lab: Lab) -> None:
    assert "systemd-nspawn" not in lab.sh("client", "cat /proc/[0-9]*/comm")
    assert lab.sh("client", "ip -4 -o addr show dev eth0").split()[3].startswith("10.77.100.")


def test_a_killed_node_is_off_keeps_its_disk_and_comes_back(
    lab: Lab, mended: Callable[[str], None]
) -> None:
    mended(VICTIM)
    lab.sh(VICTIM, "echo here > /var/lib/mark; echo gone > /run/mark")
    lab.fault("kill", VICTIM)
    assert not pings(lab, VICTIM)
    assert lab.exec(VICTIM, "true", check=False).returncode == 1
    lab.fault("start", VICTIM)
    assert lab.sh(VICTIM, "cat /var/lib/mark; cat /run/mark 2>&1 || true").startswith("here\n")
    assert "gone" not in lab.sh(VICTIM, "cat /run/mark 2>&1 || true")
    eventually(lambda: lab.salt([VICTIM], "test.ping") == {VICTIM: True}, "the minion answers")


def test_a_cut_node_is_alone_until_healed(lab: Lab, mended: Callable[[str], None]) -> None:
    mended(VICTIM)
    lab.fault("cut", VICTIM)
    assert not pings(lab, VICTIM)
    assert lab.sh(VICTIM, "echo alive") == "alive\n"
    lab.fault("heal", VICTIM)
    assert pings(lab, VICTIM)


def test_stop_and_start_of_a_service(lab: Lab, mended: Callable[[str], None]) -> None:
    mended(VICTIM)
    state = "systemctl is-active memcached || true"
    lab.fault("stop", VICTIM, "memcached")
    assert lab.sh(VICTIM, state) == "inactive\n"
    lab.fault("start", VICTIM, "memcached")
    assert lab.sh(VICTIM, state) == "active\n"


def test_kill_of_a_service_takes_its_processes(lab: Lab, mended: Callable[[str], None]) -> None:
    mended(VICTIM)
    process = "systemctl show --value --property=MainPID memcached"
    before = lab.sh(VICTIM, process).strip()
    assert before != "0"
    lab.fault("kill", VICTIM, "memcached")
    eventually(
        lambda: lab.sh(VICTIM, f"test -e /proc/{before} && echo there || true") == "",
        "the process is gone",
    )
    lab.fault("start", VICTIM, "memcached")


def test_a_reboot_is_a_new_boot(lab: Lab, mended: Callable[[str], None]) -> None:
    mended(VICTIM)
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = lab.sh(VICTIM, boot)
    lab.fault("reboot", VICTIM)
    assert lab.sh(VICTIM, boot) != before


def test_a_node_boots_from_the_snapshot_that_it_put_in_place_of_its_root(
    lab: Lab, mended: Callable[[str], None]
) -> None:
    mended(VICTIM)
    before = lab.sh(VICTIM, "ls /.webfarm")
    lab.sh(VICTIM, "btrfs subvolume snapshot -r / /.webfarm/before; echo later > /etc/later")
    lab.sh(VICTIM, "btrfs subvolume create /var/lib/nested; echo here > /var/lib/nested/mark")
    lab.sh(
        VICTIM,
        "btrfs subvolume snapshot /.webfarm/before /.webfarm/@new && cd /.webfarm && "
        "mv -T @ @aside && mv -T @new @",
    )
    assert lab.sh(VICTIM, "cat /etc/later") == "later\n", "until it boots, its root stays"
    lab.fault("reboot", VICTIM)
    assert lab.sh(VICTIM, "cat /etc/later 2>&1 || true").endswith("No such file or directory\n")
    nested = "/.webfarm/@aside/var/lib/nested"
    assert lab.sh(VICTIM, f"cat /.webfarm/@aside/etc/later {nested}/mark") == "later\nhere\n"
    subvolumes = f"{nested} /.webfarm/@aside /.webfarm/before"
    lab.sh(VICTIM, f"btrfs subvolume delete {subvolumes}")
    assert lab.sh(VICTIM, "ls /.webfarm") == before
    eventually(lambda: lab.salt([VICTIM], "test.ping") == {VICTIM: True}, "the minion answers")


def test_a_node_sees_no_other_nodes_disk(lab: Lab) -> None:
    seen = set(lab.sh(VICTIM, "ls /.webfarm /.webfarm/..").split())
    assert {"@", "etc"} <= seen
    assert not seen & {node["node"] for node in lab.nodes}


def test_a_stranded_node_does_not_come_back_from_its_reboot(
    lab: Lab, mended: Callable[[str], None]
) -> None:
    mended(VICTIM)
    lab.fault("strand", VICTIM)
    assert lab.sh(VICTIM, "echo alive") == "alive\n"
    lab.exec(VICTIM, "systemctl", "reboot", check=False)
    eventually(lambda: not pings(lab, VICTIM), "the node is dark")
    power = {node["node"]: (node["power"], node["cables"]) for node in lab.nodes}
    assert power[VICTIM] == ("off", "cut")
    lab.fault("start", VICTIM)
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = lab.sh(VICTIM, boot)
    lab.fault("reboot", VICTIM)  # only one of its reboots was to end so
    assert lab.sh(VICTIM, boot) != before


def test_burning_ends_and_leaves_nothing_behind(lab: Lab) -> None:
    lab.fault("burn", VICTIM, "2")
    assert "while :" not in lab.sh(VICTIM, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").replace(
        "cat /proc", ""
    )


def test_the_client_trusts_the_public_certificate(lab: Lab) -> None:
    lab.sh("client", "curl -sS -o /dev/null https://shop.example/")


@pytest.mark.parametrize(("asked_by", "status"), [("master", "200"), ("lb1", "403")])
def test_preproduction_answers_the_master_and_no_other_node(
    lab: Lab, asked_by: str, status: str
) -> None:
    page = f"http://{lab.address('preprod-ws1')}:8080/"
    ask = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", page)
    assert lab.exec(asked_by, *ask).stdout == status
