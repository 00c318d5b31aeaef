"""Packages of Debian by the real apt and dpkg, in a copy of this machine's own Debian."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE
from own_debian import Archive, Failed, OwnDebian

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    made = Archive(tmp_path_factory.mktemp("archive"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, archive: Archive) -> Iterator[OwnDebian]:
    own = OwnDebian(tmp_path_factory.mktemp("debian"))
    try:
        source = f"deb [trusted=yes] {archive.address} ./"
        own.run(
            *("sh", "-c"),
            "rm -rf /etc/apt/sources.list.d/* /etc/apt/preferences.d/* /var/lib/apt/lists/*"
            " /usr/sbin/policy-rc.d"
            f" && echo '{source}' > /etc/apt/sources.list",
        )
        yield own
    finally:
        own.close()


@pytest.fixture
def call(debian: OwnDebian, archive: Archive) -> Iterator[Call]:
    """Call a function of ``webfarm_packages``; the archive is empty again afterwards."""

    def function(name: str, *args: Any, packages: Any = None, **kwargs: Any) -> Any:
        pillar = {**EXAMPLE, "packages": packages or {}}
        return debian.call(f"webfarm_packages.{name}", *args, pillar=pillar, **kwargs)

    yield function
    for deb in archive.folder.iterdir():
        deb.unlink()


@pytest.fixture
def published(archive: Archive, call: Call) -> Callable[[], None]:
    """Publish what is in the archive and have it read."""

    def publish() -> None:
        archive.index()
        call("sync")

    return publish


def state(debian: OwnDebian) -> str:
    return debian.run(
        "sh", "-c", "sha256sum /var/lib/dpkg/status; ls /usr/sbin/policy-rc.d* 2>&1; true"
    )


def certificate(pretended: dict[str, Any]) -> dict[str, Any]:
    return {n: {"to": c["to"], "digest": c["digest"]} for n, c in pretended["changes"].items()}


def test_what_was_pretended_is_installed(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    archive.make("wf-a", "1.0", depends="wf-lib (>= 1)")
    archive.make("wf-lib", "1:1.0~rc1-1")
    published()
    before = state(debian)
    found = call("pretend", "wf-a")
    assert state(debian) == before
    assert found["manager"] == "apt" and found["profile"] == "default"
    assert {n: (c["from"], c["to"]) for n, c in found["changes"].items()} == {
        "wf-a": (None, "1.0"),
        "wf-lib": (None, "1:1.0~rc1-1"),
    }
    assert found["changes"]["wf-a"]["size"] == (archive.folder / "wf-a_1.0_all.deb").stat().st_size
    done = call("install", ["wf-a"], certificate(found))
    assert done["changed"]["wf-lib"] == {"from": None, "to": "1:1.0~rc1-1"}
    assert done["reboot"] is False
    assert call("status")["installed"]["wf-a"] == "1.0"
    assert debian.run("apt-mark", "showauto", "wf-lib").strip() == "wf-lib"
    assert debian.run("ls", "/var/cache/webfarm/apt") == ""
    assert call("pretend", "wf-a")["changes"] == {}
    assert call("install", ["wf-a"], certificate(found))["changed"] == {}
    assert call("verify", "wf-a") == []
    debian.run("sh", "-c", "echo damaged > /usr/share/wf-a/text")
    (line,) = call("verify", "wf-a")
    assert line.endswith("/usr/share/wf-a/text")


def test_a_newer_version_in_the_archive_does_not_hinder_the_certified_one(
    archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    archive.make("wf-newer", "1.0", depends="wf-newer-lib")
    archive.make("wf-newer-lib", "1.0")
    published()
    certified = certificate(call("pretend", "wf-newer"))
    archive.make("wf-newer", "1.1", depends="wf-newer-lib")
    archive.make("wf-newer-lib", "1.1")
    published()
    assert call("pretend", "wf-newer")["changes"]["wf-newer"]["to"] == "1.1"
    call("install", "wf-newer", certified)
    installed = call("status")["installed"]
    assert installed["wf-newer"] == installed["wf-newer-lib"] == "1.0"
    assert {n for n in call("world")["changes"] if n.startswith("wf-newer")} == {
        "wf-newer",
        "wf-newer-lib",
    }


def depends_on_more(archive: Archive) -> None:
    archive.make("wf-r", "2.0", depends="wf-r-more")
    archive.make("wf-r-more", "3.0")


def is_gone(archive: Archive) -> None:
    (archive.folder / "wf-r_2.0_all.deb").unlink()


def is_only_in_another_version(archive: Archive) -> None:
    is_gone(archive)
    archive.make("wf-r", "2.1")


def was_built_again(archive: Archive) -> None:
    archive.make("wf-r", "2.0", content={"/usr/share/wf-r/text": "another"})


def conflicts(archive: Archive) -> None:
    archive.make("wf-r", "2.0", fields="Conflicts: wf-r-old\n")


@pytest.mark.parametrize(
    ("becomes", "complaint"),
    [
        (depends_on_more, "wf-r-more 3.0 would be installed too and was not certified"),
        (is_gone, "'?wf-r'?|wf-r 2.0 was certified and would not be installed"),
        (is_only_in_another_version, "wf-r would become 2.1, certified is 2.0"),
        (was_built_again, "wf-r 2.0 is another binary than the certified one"),
        (conflicts, "apt would remove wf-r-old"),
    ],
)
def test_what_was_not_certified_is_refused_by_name_with_nothing_changed(
    debian: OwnDebian,
    archive: Archive,
    call: Call,
    published: Callable[[], None],
    becomes: Callable[[Archive], None],
    complaint: str,
) -> None:
    archive.make("wf-r-old", "1.0")
    archive.make("wf-r", "2.0")
    published()
    if "wf-r-old" not in call("status")["installed"]:
        call("install", "wf-r-old", certificate(call("pretend", "wf-r-old")))
    certified = certificate(call("pretend", "wf-r"))
    becomes(archive)
    published()
    before = state(debian)
    with pytest.raises(Failed, match=complaint) as refused:
        call("install", "wf-r", certified)
    assert "nothing was changed" in str(refused.value).lower()
    assert state(debian) == before


def test_a_binary_that_its_index_does_not_describe_is_refused(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    deb = archive.make("wf-bad", "1.0")
    published()
    certified = certificate(call("pretend", "wf-bad"))
    data = deb.read_bytes()
    deb.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = state(debian)
    with pytest.raises(Failed, match=r"wf-bad.*Nothing was changed"):
        call("install", "wf-bad", certified)
    assert state(debian) == before


def test_a_certified_package_that_the_machine_has_newer_is_refused(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    archive.make("wf-here", "1.0")
    published()
    certified = certificate(call("pretend", "wf-here"))
    archive.make("wf-here", "2.0")
    published()
    call("install", "wf-here", certificate(call("pretend", "wf-here")))
    with pytest.raises(Failed, match=r"wf-here 1\.0 was certified .*\(here: 2\.0\)"):
        call("install", "wf-here", certified)
    assert call("status")["installed"]["wf-here"] == "2.0"


def test_no_service_is_touched_while_packages_are_installed(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    asks = "policy=0; /usr/sbin/policy-rc.d nginx restart || policy=$?; echo $policy > /var/asked"
    archive.make("wf-service", "1.0", scripts={"postinst": asks})
    published()
    policy = "#!/bin/sh\nexit 104\n"
    debian.run("sh", "-c", f"printf '{policy}' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/p*d")
    try:
        call("install", "wf-service", certificate(call("pretend", "wf-service")))
        assert debian.run("cat", "/var/asked").strip() == "101"
        assert debian.run("cat", "/usr/sbin/policy-rc.d") == policy
        assert "saved" not in state(debian)
    finally:
        debian.run("rm", "-f", "/usr/sbin/policy-rc.d")


def test_a_policy_that_a_killed_installation_left_forbids_nothing(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    debian.run(
        *("/usr/bin/env", "python3", "-c"),
        "import os, sys; sys.path.insert(0, sys.argv[1]); from webfarm.packages import quiet;"
        " context = quiet.services(); context.__enter__(); os._exit(0)",
        str(Path(__file__).parents[2] / "_utils"),
    )
    debian.run("test", "-x", "/usr/sbin/policy-rc.d")
    debian.run("/usr/sbin/policy-rc.d", "nginx", "restart")
    archive.make("wf-after", "1.0")
    published()
    call("install", "wf-after", certificate(call("pretend", "wf-after")))
    assert "No such file" in state(debian)


def test_a_configuration_file_that_was_edited_stays_and_the_new_one_waits(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    def make(version: str) -> None:
        content: dict[str, str | Path] = {"/etc/wf-conf": f"{version}\n"}
        archive.make("wf-conf", version, content, conffiles=["/etc/wf-conf"])
        published()

    make("1.0")
    call("install", "wf-conf", certificate(call("pretend", "wf-conf")))
    debian.run("sh", "-c", "echo mine > /etc/wf-conf")
    make("2.0")
    done = call("install", "wf-conf", certificate(call("pretend", "wf-conf")))
    assert done["changed"]["wf-conf"] == {"from": "1.0", "to": "2.0"}
    assert done["waiting"] == call("waiting") == ["/etc/wf-conf.dpkg-dist"]
    assert debian.run("cat", "/etc/wf-conf") == "mine\n"
    assert debian.run("cat", "/etc/wf-conf.dpkg-dist") == "2.0\n"


def test_a_script_that_fails_is_told_with_its_last_words(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    archive.make("wf-fails", "1.0", scripts={"postinst": "echo no such luck; exit 3"})
    archive.make("wf-next", "1.0")
    published()
    with pytest.raises(Failed, match=r"no such luck.*dpkg --audit"):
        call("install", "wf-fails", certificate(call("pretend", "wf-fails")))
    with pytest.raises(Failed, match=r"dpkg was interrupted.*wf-fails.*Nothing was changed"):
        call("install", "wf-next", certificate(call("pretend", "wf-next")))
    debian.run("dpkg", "--purge", "--force-all", "wf-fails")


def test_what_a_service_runs_from_is_found_before_and_after(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    program = "/usr/lib/wf-daemon/daemon"
    archive.make("wf-daemon", "1.0", {program: Path("/bin/sleep")})
    archive.make("wf-other", "1.0", {"/usr/lib/wf-other/other": Path("/bin/sleep")})
    archive.make("wf-reboot", "1.0")
    published()
    words = ["wf-daemon", "wf-other", "wf-reboot"]
    call("install", words, certificate(call("pretend", words)))
    for path in (program, "/usr/lib/wf-other/other"):
        debian.run("chmod", "755", path)
    web = debian.start(program, "1000", unit="nginx.service")
    debian.start("/usr/lib/wf-other/other", "1000", unit="other.service")
    archive.make("wf-daemon", "2.0", {program: Path("/bin/cat")})
    archive.make("wf-other", "2.0", {"/usr/lib/wf-other/other": Path("/bin/cat")})
    archive.make("wf-reboot", "2.0")
    published()
    listed = {"disruptive": ["wf-reb*"], "reboot": ["wf-reb*"]}
    found = call("pretend", words, packages=listed)
    assert found["affects"] == {"nginx.service": ["wf-daemon"], "other.service": ["wf-other"]}
    assert found["disruptive"] == {
        "wf-daemon": "nginx.service runs from its files",
        "wf-reboot": "the pillar's webfarm:packages:disruptive has wf-reb*",
    }
    assert web not in [one["pid"] for one in call("deleted")]
    done = call("install", words, certificate(found), packages=listed)
    assert done["reboot"] is True and done["affects"] == found["affects"]
    (late,) = [one for one in call("deleted") if one["pid"] == web]
    assert late == {"pid": web, "command": "daemon", "unit": "nginx.service", "files": [program]}


def test_a_rollout_that_was_replaced_changes_nothing(
    debian: OwnDebian, archive: Archive, call: Call, published: Callable[[], None]
) -> None:
    archive.make("wf-held", "1.0")
    published()
    certified = certificate(call("pretend", "wf-held"))
    debian.run("sh", "-c", "mkdir -p /var/lib/webfarm/holds; echo 7 > /var/lib/webfarm/holds/site1")
    with pytest.raises(Failed, match="StaleHold"):
        call("install", "wf-held", certified, hold="site1:6.1")
    assert "wf-held" not in call("status")["installed"]


@pytest.mark.parametrize("word", ["-oDir=/", "wf-a-", "a b;c", "../x", "wf-a/stable", ["x", 3]])
def test_no_word_reaches_apt_as_an_option(call: Call, word: Any) -> None:
    with pytest.raises(Failed, match="nothing was changed"):
        call("pretend", word)


def test_every_package_has_a_version(call: Call) -> None:
    installed = call("status")["installed"]
    assert installed["dpkg"] and installed["libc6"] and "" not in installed.values()
