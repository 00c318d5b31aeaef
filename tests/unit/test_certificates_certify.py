"""Certification: what is signed was run, whatever servers, networks and people do meanwhile."""

from pathlib import Path
from typing import Any

import pytest
from webfarm.certificates import commands, packages, releases
from webfarm.certificates.book import opened
from webfarm.certificates.gate import path
from webfarm.certificates.model import Uncertified
from webfarm.certificates.traffic import Answer, Soaked
from webfarm.errors import WebfarmError
from webfarm.rollout import lease
from webfarm.rollout.lease import Held, Lease
from webfarm.rollout.model import Reply

from tests.unit.bench_world import TREES, A, B, C, Killed, Machine, World, with_preproduction

SET = {"packages": ["openssl"]}
RELEASE = {"release": "2026.11.2"}
COMMAND = {"command": ["/usr/bin/true", "x"]}


@pytest.fixture
def world(tmp_path: Path, pillar: dict[str, Any]) -> World:
    return World(tmp_path, with_preproduction(pillar, **COMMAND))


def required(world: World, words: tuple[str, ...] = ("openssl",)) -> Any:
    with opened(path(world.context.journal_path)) as book:
        profiles = ["r640", "r660"]
        return packages.require(book, world.topology, words, profiles, world.now)


def refused(world: World, subject: dict[str, Any] = SET) -> str:
    with pytest.raises(Uncertified) as caught, opened(path(world.context.journal_path)) as book:
        if "release" in subject:
            given = (subject["release"], ["r640", "r660"], TREES, world.now)
            releases.require(book, world.topology, *given)
        else:
            required(world, tuple(subject["packages"]))
    return str(caught.value)


# -- what is signed --------------------------------------------------------------------------------


def test_a_set_that_works_is_certified_for_each_profile_with_versions_and_digests(
    world: World,
) -> None:
    data = world.certify(**SET)
    assert (data["result"], data["state"], data["profiles"]) == (True, "valid", ["r640", "r660"])
    both = {"openssl": {"to": "3.0.2", "digest": A}, "libssl3": {"to": "3.0.2", "digest": B}}
    assert required(world) == {"r640": both, "r660": both}
    shown = commands.certificates(world.context, data["id"])["certificate"]
    assert shown["by"].startswith("alice on ")
    tested = shown["tested"]["r660"]
    assert (tested["server"], tested["soak requests"], tested["soak p99"]) == ("pre2", 600, 0.02)
    assert [one["what"] for one in tested["evidence"]] == [
        *("look", "pretend", "install", "restart", "processes with deleted files", "ready"),
        *("read back", "smoke GET /: 200", "command", "soak", "read back after the soak"),
    ]
    assert world.machines["pre1"].running["libssl3"] == "3.0.2"


def test_what_is_tested_is_what_runs_a_reboot_is_proven_by_its_boot_id(world: World) -> None:
    world.reboot = True
    before = {name: machine.boot for name, machine in world.machines.items()}
    tested = commands.certificates(world.context, world.certify(**SET)["id"])["certificate"]
    for profile, name in (("r640", "pre1"), ("r660", "pre2")):
        boots = tested["tested"][profile]["boots"]
        assert boots == [before[name], world.machines[name].boot]
        assert boots[0] != boots[1]
    assert ("webfarm_os.restart", "pre1") not in world.calls


@pytest.mark.parametrize("affected", ["init.scope", "salt-minion.service", "nginx: worker", "bash"])
def test_what_cannot_be_restarted_by_itself_is_rebooted(world: World, affected: str) -> None:
    world.affects = {"nginx.service": [], affected: ["libssl3"]}
    assert world.certify(**SET)["result"]
    assert ("webfarm_os.reboot", "pre1") in world.calls


def test_a_process_that_still_runs_from_old_files_after_the_restart_means_a_reboot(
    world: World,
) -> None:
    world.sticky = ["libssl3"]
    assert world.certify(**SET)["result"]
    assert ("webfarm_os.reboot", "pre2") in world.calls
    assert world.machines["pre2"].running["libssl3"] == "3.0.2"


@pytest.mark.parametrize("broken", [False, True])
def test_services_are_restarted_also_for_a_package_that_none_of_them_uses(
    world: World, broken: bool
) -> None:
    """It may have harmed their configuration: nginx would not start at its next restart."""
    world.affects = {}
    world.broken_service = broken
    done = world.certify(packages="nginx")
    assert done["result"] is not broken
    assert not broken or "nginx.service does not start" in done["message"], done
    assert ("webfarm_os.restart", "pre1") in world.calls
    assert ("webfarm_os.reboot", "pre1") not in world.calls


def test_a_release_is_certified_with_the_digests_of_its_trees(world: World) -> None:
    data = world.certify(**RELEASE)
    assert data["result"]
    pair = {"php": "8.2.36", "webapp": "2", "digests": TREES}
    assert data["tested"]["r640"]["release"] == pair
    assert world.machines["pre1"].release == "2026.11.2"


def test_without_the_store_on_this_master_the_servers_digests_are_what_is_certified(
    world: World,
) -> None:
    world.context.digests = None
    assert world.certify(**RELEASE)["result"]
    with opened(path(world.context.journal_path)) as book:
        given = ("2026.11.2", ["r640", "r660"], None, world.now)
        assert releases.require(book, world.topology, *given) == TREES


def test_the_profiles_that_are_named_are_the_ones_that_are_certified(world: World) -> None:
    assert world.certify(**SET, profiles="r660")["profiles"] == ["r660"]
    assert {name for _, name in world.calls} == {"pre2"}
    assert "for r640 there is no certificate. Nothing" in refused(world)
    assert "packages='[openssl]' profiles=r640`" in refused(world)
    with pytest.raises(WebfarmError, match="profile r999; there are: r640, r660"):
        world.certify(**SET, profiles=["r999"])


@pytest.mark.parametrize("subject", [SET, RELEASE])
def test_certified_again_it_is_another_certificate_and_the_digests_are_still_known(
    world: World, subject: dict[str, Any]
) -> None:
    first = world.certify(**subject)
    world.now += 91 * 86400
    assert "has expired: it is 91 d old, at most 90 d count" in refused(world, subject)
    again = world.certify(**subject)
    assert (again["result"], again["id"]) == (True, first["id"] + 1)
    assert again["tested"]["r640"].get("packages") == first["tested"]["r640"].get("packages")
    if subject is SET:
        assert required(world)["r640"]["libssl3"]["digest"] == B
        assert world.calls.count(("webfarm_packages.install", "pre1")) == 1


def test_what_another_set_has_replaced_since_is_not_in_the_certificate_any_more(
    world: World,
) -> None:
    world.certify(**SET)
    world.archive["libssl3"] = ("3.0.3", C)
    world.certify(packages="libssl3")
    assert world.certify(**SET)["result"]
    assert required(world)["r640"]["libssl3"] == {"to": "3.0.3", "digest": C}


def test_a_package_that_came_by_hand_is_not_signed_nobody_knows_its_binary(world: World) -> None:
    data = world.certify(packages=["bash"])
    assert not data["result"]
    assert "bash 5 is on pre1 already, and no certification has installed it" in data["message"]
    assert "Put pre1 back to a snapshot of before" in data["message"]


# -- what is not -----------------------------------------------------------------------------------

PACKAGE_CALLS = (
    *("webfarm_release.status", "webfarm_packages.pretend", "webfarm_packages.install"),
    *("webfarm_os.restart", "webfarm_packages.deleted", "webfarm_packages.status"),
    *("webfarm_packages.verify", "webfarm_preproduction.command"),
)
RELEASE_CALLS = (
    *("webfarm_release.stage", "webfarm_release.switch", "php_version.verify", "webapp.verify"),
)
ALL_CALLS = [
    *((SET, function) for function in PACKAGE_CALLS),
    *((RELEASE, function) for function in RELEASE_CALLS),
]


@pytest.mark.parametrize(("subject", "function"), ALL_CALLS)
@pytest.mark.parametrize(
    "reply", [Reply(None, error="no answer in 60 s"), Reply(False, "no", "it broke\x1b[31m")]
)
def test_a_server_that_is_silent_or_fails_is_named_and_nothing_is_certified(
    world: World, subject: dict[str, Any], function: str, reply: Reply
) -> None:
    world.after = lambda _, asked, machine, real: (
        reply if asked == function and machine.name == "pre2" else real
    )
    data = world.certify(**subject)
    assert not data["result"]
    assert data["message"].startswith("nothing is certified. r660: pre2")
    assert "\x1b" not in data["message"]
    assert data["tested"]["r640"]["state"] == "passed"
    assert data["next"][1].startswith("salt-run upgrade.certify ")
    assert f"certificate {data['id']} failed: " in refused(world, subject)
    world.after = lambda n, f, m, real: real
    assert world.certify(**subject)["result"]


JUNK: list[Any] = [
    *(None, True, 7, "x", "x" * 100_000, [], [7], [["a"]], {}, {"a": 1}, {7: 7}, float("nan")),
    *(
        {"changes": 7},
        {"changes": {}, "affects": {}},
        {"changes": {}, "affects": {}, "profile": []},
    ),
    {"changes": {"openssl": {"to": "3", "digest": "sha256:x"}}, "affects": {}, "profile": "r640"},
    {"changes": {"../x": {"to": "3", "digest": A}}, "affects": {}, "profile": "r640"},
    {"changes": {"x": {"to": "3;rm", "digest": A}}, "affects": {}, "profile": "r640"},
    {"changes": {"x": {"to": 3, "digest": A}}, "affects": {}, "profile": "r640"},
    {"changed": {}, "affects": {}, "reboot": "no"},
    {"changed": {"openssl": {"to": "3.0.2"}}, "affects": {}, "reboot": False},
    {"installed": {}, "boot_id": "x", "profile": "r640"},
    {"installed": {"openssl": 3}, "boot_id": "x", "profile": "r640"},
    {"boot_id": "x", "ready": True},
    {"boot_id": "00000000-0000-0000-0000-000000000000", "ready": 1},
    {"code": "0"},
    {"code": False},
    {"code": 1, "output": ["\x1b[2J"]},
    {"php": "yes", "webapp": "installed"},
    {"version": "8.2.36", "digest": "zz"},
    {"version": "9", "digest": "1" * 64},
    {"version": "8.2.36", "digest": "f" * 64},
]
# what these return is not used: what they have done is read back
UNREAD = {"webfarm_os.restart", "webfarm_release.switch"}
# an empty list is what these return when all is well
LISTS = {"webfarm_packages.deleted", "webfarm_packages.verify"}


@pytest.mark.parametrize(("subject", "function"), ALL_CALLS)
def test_a_reply_of_another_shape_certifies_nothing_and_makes_no_traceback(
    tmp_path: Path, pillar: dict[str, Any], subject: dict[str, Any], function: str
) -> None:
    for number, junk in enumerate(JUNK):
        if function in UNREAD or (function in LISTS and isinstance(junk, list)):
            continue
        world = World(tmp_path / f"{number}", with_preproduction(pillar, **COMMAND))
        world.after = lambda _, asked, machine, real, junk=junk: (  # type: ignore[misc]
            Reply(True, junk) if asked == function else real
        )
        data = world.certify(**subject)
        assert not data["result"], junk
        assert "pre1" in data["message"]
        assert world.standing() == ["failed"]
        refused(world, subject)


def test_a_binary_that_changes_between_pretend_and_install_is_not_certified(world: World) -> None:
    def change(number: int, function: str, machine: Machine) -> None:
        if function == "webfarm_packages.install":
            world.archive["libssl3"] = ("3.0.2", C)

    world.before = change
    data = world.certify(**SET)
    assert "not the digest; nothing was changed" in data["message"]
    assert world.machines["pre1"].installed["libssl3"] == "3.0.1"
    refused(world)


def test_a_server_that_lies_about_what_it_installed_is_found_by_reading_back(world: World) -> None:
    def undo(number: int, function: str, machine: Machine, reply: Reply) -> Reply:
        if function == "webfarm_packages.install":
            machine.installed["libssl3"] = "3.0.1"
        return reply

    world.after = undo
    data = world.certify(**SET)
    assert "pre1 has libssl3 3.0.1 installed, expected 3.0.2" in data["message"]
    refused(world)


def test_a_server_that_installs_something_else_than_was_meant_is_named(world: World) -> None:
    def more(number: int, function: str, machine: Machine, reply: Reply) -> Reply:
        if function == "webfarm_packages.install":
            reply.value["changed"]["bash"] = {"from": "5", "to": "6"}
        return reply

    world.after = more
    assert (
        "pre1 did not install what was meant: bash is 6, meant none"
        in (world.certify(**SET)["message"])
    )
    refused(world)


def test_a_file_that_is_not_its_packages_is_found(world: World) -> None:
    world.machines["pre2"].altered = ["??5??????   /usr/lib/libssl.so.3"]
    data = world.certify(**SET)
    assert "pre2: 1 files are not what their packages brought: ??5" in data["message"]


def test_a_reboot_that_never_ends_is_waited_for_only_so_long(world: World) -> None:
    world.reboot = True

    def never(number: int, function: str, machine: Machine) -> None:
        machine.down += 1 if ("webfarm_os.reboot", machine.name) in world.calls[:-1] else 0

    world.before = never
    start = world.now
    data = world.certify(**SET)
    assert "pre1 did not reboot and become ready in 60 s: no answer" in data["message"]
    assert world.now - start < 300
    refused(world)


def test_a_reboot_that_did_not_happen_is_found_by_the_boot_id(world: World) -> None:
    world.reboot = True

    def stay(number: int, function: str, machine: Machine, reply: Reply) -> Reply:
        if function == "webfarm_os.reboot":
            machine.down, machine.boot = 0, reply.value["boot_id"]
        return reply

    world.after = stay
    assert (
        "did not reboot and become ready in 60 s: it has not rebooted"
        in (world.certify(**SET)["message"])
    )
    refused(world)


def test_a_server_that_is_not_ready_afterwards_is_named(world: World) -> None:
    def unready(number: int, function: str, machine: Machine) -> None:
        machine.ready = function != "webfarm_packages.status" and machine.ready
        if function == "webfarm_os.restart":
            machine.ready = False

    world.before = unready
    data = world.certify(**SET)
    assert "pre1 did not become ready in 60 s: php-fpm does not answer" in data["message"]


def test_a_service_that_does_not_start_is_a_failure(world: World) -> None:
    world.broken_service = True
    data = world.certify(**SET)
    assert "pre1: webfarm_os.restart failed: nginx.service does not start" in data["message"]
    assert "certificate 1 failed" in refused(world)


def test_smoke_command_and_soak_each_decide(tmp_path: Path, pillar: dict[str, Any]) -> None:
    def answer(machine: Machine, check: Any) -> Answer:
        return Answer(0.1, "GET /: status 500, expected 200" if machine.name == "pre2" else "")

    def soak(machine: Machine) -> Soaked:
        return Soaked(600, 2, 0.01, 0.5, 60.0, ("2 times GET /: status 502, expected 200",))

    faults: dict[str, tuple[str, Any]] = {
        "answer": ("r660: pre2: GET /: status 500, expected 200", answer),
        "code": ("pre1: the command /usr/bin/true ended with 3: all is well", 3),
        "soaking": ("2 of 600 requests of the soak failed: 2 times GET /: status 502", soak),
    }
    for name, (message, value) in faults.items():
        world = World(tmp_path / name, with_preproduction(pillar, **COMMAND))
        setattr(world, name, value)
        data = world.certify(**RELEASE)
        assert (data["result"], data["state"]) == (False, "failed")
        assert message in data["message"]
        assert message in refused(world, RELEASE)


def test_a_soak_that_made_fewer_requests_than_were_wanted_is_none(world: World) -> None:
    world.soaking = lambda machine: Soaked(599, 0, 0.01, 0.02, 60.0)
    assert "made 599 requests, 600 were wanted" in world.certify(**SET)["message"]
    refused(world)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "boot", "0" * 8 + "-0000-0000-0000-" + "0" * 12), "rebooted during"),
        (lambda m: m.installed.update(openssl="3.0.9"), "openssl 3.0.9 installed, expected 3.0.2"),
        (lambda m: setattr(m, "ready", False), "is not ready after the soak"),
        (lambda m: m.altered.append("..5  /bin/x"), "files are not what their packages brought"),
        (lambda m: setattr(m, "profile", "r999"), "says that its hardware profile is 'r999'"),
    ],
)
def test_what_changes_during_the_soak_is_found_after_it(
    world: World, change: Any, message: str
) -> None:
    world.soaking = lambda machine: change(machine)
    assert message in world.certify(**SET)["message"]
    refused(world)


def test_a_release_that_is_another_after_the_soak_is_not_certified(world: World) -> None:
    world.soaking = lambda machine: setattr(machine, "release", "2026.11.1")
    assert "pre1 runs 2026.11.1 (php 8.2.32" in world.certify(**RELEASE)["message"]
    refused(world, RELEASE)


def test_a_server_that_reboots_during_the_soak_of_a_release_is_found(world: World) -> None:
    world.soaking = lambda machine: setattr(machine, "boot", "0" * 8 + "-0000" * 3 + "-" + "0" * 12)
    assert (
        "pre1 rebooted during the tests, nobody told it to" in world.certify(**RELEASE)["message"]
    )
    refused(world, RELEASE)


def test_a_tree_that_is_altered_during_the_soak_is_found(world: World) -> None:
    world.soaking = lambda machine: machine.trees.update({"webapp 2": "f" * 64})
    assert "the tree of webapp 2 is ffff" in world.certify(**RELEASE)["message"]
    refused(world, RELEASE)


# -- killed, stopped, held -------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [SET, RELEASE])
@pytest.mark.parametrize("late", [False, True])
def test_killed_at_any_call_nothing_is_certified_and_the_same_again_is(
    tmp_path: Path, pillar: dict[str, Any], subject: dict[str, Any], late: bool
) -> None:
    whole = World(tmp_path / "whole", with_preproduction(pillar, **COMMAND))
    whole.certify(**subject)
    for at in range(len(whole.calls)):
        world = World(tmp_path / f"{at}", with_preproduction(pillar, **COMMAND))

        def die(number: int, *_: Any, at: int = at) -> Any:
            if number == at:
                raise Killed
            return _[-1]

        if late:
            world.after = die
        else:
            world.before = die
        assert world.killed(**subject)
        assert world.standing() == ["running"]
        assert "its process was killed" in refused(world, subject)
        again = world.certify(**subject)
        assert again["result"], (at, again["message"])
        assert world.standing() == ["valid", "failed"]
        for machine in world.machines.values():  # what was tested is what runs, not only installed
            assert machine.running == machine.installed


def test_ctrl_c_ends_it_and_says_so(world: World) -> None:
    def typed(number: int, function: str, machine: Machine) -> None:
        world.stop = world.stop or function == "webfarm_packages.status"

    world.before = typed
    data = world.certify(**SET)
    assert "Ctrl-C" in data["message"]
    assert world.standing() == ["failed"]
    refused(world)


def test_a_server_is_certified_on_by_one_at_a_time(world: World) -> None:
    with world.context.journal(make=True) as journal:
        other = Lease(journal.connection, "webfarm.pre2", "bob", world, world._process(99))
        other.dead = lambda process: False
        other.take("certify packages nginx")
        with pytest.raises(Held) as caught:
            world.certify(**SET)
    assert "pre2 is in use by bob on master (pid 99)" in str(caught.value)
    assert "certify packages nginx. Nothing was changed" in str(caught.value)
    assert world.calls == []
    assert world.certify(**SET, profiles=["r640"])["result"]
    world.now += 61  # bob was not heard of
    assert world.certify(**SET)["result"]


def test_who_has_lost_the_server_signs_nothing(world: World) -> None:
    def lose(machine: Machine) -> None:
        with world.context.journal() as journal:
            lease.unlock(journal.connection, "webfarm.pre1", "carol", "why not", world)

    world.soaking = lose
    with pytest.raises(Held, match="no longer held"):
        world.certify(**SET)
    assert world.standing() == ["running"]
    refused(world)


def test_who_has_lost_a_server_at_the_last_moment_signs_nothing(world: World) -> None:
    def told(text: str) -> None:
        if text.startswith("r660 pre2: read back after the soak done"):
            with world.context.journal() as journal:
                lease.unlock(journal.connection, "webfarm.pre1", "carol", "why not", world)

    world.context.watcher.told = told  # type: ignore[method-assign]
    with pytest.raises(Held, match="no longer held"):
        world.certify(**SET)
    refused(world)


def test_what_to_certify_must_be_said_and_must_exist(world: World) -> None:
    for given in ({}, {**SET, **RELEASE}):
        with pytest.raises(WebfarmError, match="one of them"):
            world.certify(**given)
    with pytest.raises(WebfarmError, match="there is no release 9"):
        world.certify(release="9")
    with pytest.raises(WebfarmError, match="is no package"):
        world.certify(packages="openssl;reboot")
    assert world.calls == []


def test_without_a_preproduction_server_nothing_can_be_certified(
    tmp_path: Path, pillar: dict[str, Any]
) -> None:
    with pytest.raises(WebfarmError, match="webfarm:preproduction:servers"):
        World(tmp_path, pillar).certify(**SET)
