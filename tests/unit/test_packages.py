"""What a change of packages is compared with and disturbs; settings and hardware profiles."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from webfarm import hw_profiles, topology
from webfarm.errors import BadTopology, WebfarmError
from webfarm.hw_profiles import HwProfile, Machine
from webfarm.packages import disruption, running
from webfarm.packages.apt import compare_content, file_name, parse_simulation, with_digests
from webfarm.packages.changes import Change, Refused, compare, expected
from webfarm.packages.node import manager
from webfarm.packages.running import Process
from webfarm.packages.settings import Packages, Portage

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MACHINE = Machine("GenuineIntel 6 85 Xeon(R) Gold", frozenset({"avx2", "sse4_2"}), 15900, "ssd")


def change(name: str = "a", new: str = "2", digest: str = ONE, old: str | None = "1") -> Change:
    return Change(name, old, new, digest, 10)


def certified(**versions: str) -> Any:
    return expected({name: {"to": to, "digest": ONE} for name, to in versions.items()})


def test_exactly_what_was_certified_is_accepted() -> None:
    compare([change()], certified(a="2"), {"a": "1"})
    compare([], certified(a="2"), {"a": "2"})
    compare([change()], certified(a="2", b="3"), {"a": "1", "b": "3"})


@pytest.mark.parametrize(
    ("changes", "here", "complaint"),
    [
        ([change(), change("b")], {}, "b 2 would be installed too and was not certified"),
        ([change(new="3")], {}, "a would become 3, certified is 2"),
        ([change(digest=TWO)], {}, "a 2 is another binary than the certified one"),
        ([], {}, r"a 2 was certified and would not be installed \(here: not installed\)"),
        ([], {"a": "3"}, r"a 2 was certified and would not be installed \(here: 3\)"),
    ],
)
def test_every_difference_is_refused_by_name(
    changes: list[Change], here: dict[str, str], complaint: str
) -> None:
    with pytest.raises(Refused, match=complaint) as refused:
        compare(changes, certified(a="2"), here)
    assert "upgrade.certify" in str(refused.value)


@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), min_size=1), st.data())
def test_a_comparison_passes_only_when_the_machine_ends_as_certified(
    binaries: dict[str, str], data: st.DataObject
) -> None:
    versions = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"))
    here, coming = data.draw(versions), data.draw(versions)
    changes = [change(name, new, old=here.get(name)) for name, new in coming.items()]
    after = {**here, **coming}
    fine = coming.keys() <= binaries.keys() and all(
        after.get(name) == version for name, version in binaries.items()
    )
    try:
        compare(changes, certified(**binaries), here)
    except Refused:
        assert not fine
    else:
        assert fine


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], {}, "a", {"a": "2"}, {"a": {"to": "2"}}, {"a": {"digest": ONE}}),
        *({"a": {"to": 2, "digest": ONE}}, {"../a": {"to": "2", "digest": ONE}}),
        *({"a": {"to": "2\nPin: x", "digest": ONE}}, {"a": {"to": "-2", "digest": ONE}}),
        *({"a": {"to": "2", "digest": ONE[:-1]}}, {"a": {"to": "2", "digest": "md5:1"}}),
        *({"a\nb": {"to": "2", "digest": ONE}}, {7: {"to": "2", "digest": ONE}}),
        {f"p{n}": {"to": "2", "digest": ONE} for n in range(5001)},
    ],
)
def test_what_is_no_certificate_is_refused(value: object) -> None:
    with pytest.raises(WebfarmError, match="nothing was changed"):
        expected(value)


SIMULATION = """\
NOTE: This is only a simulation!
Inst libssl3 [3.0.16-1~deb12u1] (3.0.17-1~deb12u2 Debian-Security:12/stable-security [amd64])
Inst new (1:2.0 localhost [all]) [openssl:amd64 ]
Inst zlib1g:i386 [1] (2 Debian:12.9/stable, Debian-Security:12 [i386])
Conf libssl3 (3.0.17-1~deb12u2 Debian-Security:12/stable-security [amd64])
"""


def test_what_apt_would_do_is_read_with_its_digests() -> None:
    found = parse_simulation(SIMULATION)
    assert found == [
        ("libssl3", "3.0.16-1~deb12u1", "3.0.17-1~deb12u2", "amd64"),
        ("new", None, "1:2.0", "all"),
        ("zlib1g:i386", "1", "2", "i386"),
    ]
    printed = "\n".join(
        f"'http://h/{name}' {name} 12 SHA256:{'1' * 64}"
        for name in (
            *("libssl3_3.0.17-1~deb12u2_amd64.deb", "new_1%3a2.0_all.deb", "zlib1g_2_i386.deb"),
        )
    )
    assert with_digests(found, printed)[1] == Change("new", None, "1:2.0", ONE, 12)
    with pytest.raises(WebfarmError, match=r"no SHA256 for new_1%3a2\.0_all\.deb"):
        with_digests(found, printed.replace("new_", "old_"))
    assert file_name("a:i386", "1:2_3", "i386") == "a_1%3a2%5f3_i386.deb"


def test_a_removal_and_a_line_that_is_not_understood_are_refused() -> None:
    with pytest.raises(Refused, match="would remove old, older;"):
        parse_simulation("Remv old [1] (x)\nPurg older [1]\n")
    with pytest.raises(WebfarmError, match="not understood"):
        parse_simulation("Inst what ever\n")


def test_what_was_fetched_is_compared_by_its_content(tmp_path: Path) -> None:
    deb = tmp_path / "a_2_amd64.deb"
    deb.write_bytes(b"package")
    digest = f"sha256:{hashlib.sha256(b'package').hexdigest()}"
    changes = [change(digest=digest)]
    right = expected({"a": {"to": "2", "digest": digest}})
    compare_content(tmp_path, changes, right)
    with pytest.raises(Refused, match=r"a 2 as fetched is .*not certified"):
        compare_content(tmp_path, changes, certified(a="2"))
    with pytest.raises(Refused, match="b 2 was not fetched"):
        compare_content(tmp_path, [*changes, change("b")], right)
    with pytest.raises(Refused, match="more was fetched"):
        (tmp_path / "c_1_all.deb").write_bytes(b"")
        compare_content(tmp_path, changes, right)


MAPS = """\
55e0-55e1 r--p 00000000 08:01 42                         /usr/sbin/nginx
55e1-55e2 r-xp 00000000 08:01 42                         /usr/sbin/nginx
7f00-7f01 r-xp 00000000 08:01 43                         /usr/lib/libssl.so.3 (deleted)
7f01-7f02 r--p 00000000 08:01 44                         /usr/share/locale (deleted)
7f02-7f03 rwxp 00000000 00:01 45                         /dev/zero (deleted)
7f03-7f04 rwxs 00000000 00:01 46                         /memfd:jit (deleted)
7f04-7f05 r-xp 00000000 00:00 0                          [vdso]
garbage
"""


def test_programs_and_libraries_are_found_in_the_maps_of_a_process() -> None:
    every, gone = running.mapped(MAPS)
    assert every == {"/usr/sbin/nginx", "/usr/lib/libssl.so.3"}
    assert gone == {"/usr/lib/libssl.so.3"}


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("9:name=systemd:/a/x@1.service/inner\n8:pids:/other.service\n0::/\n", "x@1.service"),
        ("0::/user.slice/session-1.scope\n", "session-1.scope"),
        ("0::/\n", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_unit_of_a_process_is_its_innermost_service(text: str, unit: str) -> None:
    assert running.unit(text) == unit


def process(unit: str, *files: str) -> Process:
    return Process(1, "command", unit, frozenset(files), frozenset())


def test_only_services_of_the_farm_make_a_package_disruptive() -> None:
    owned = {name: frozenset({f"/usr/lib/{name}"}) for name in ("ours", "theirs", "unused")}
    owned["libc6:i386"] = frozenset()
    found = disruption.look(
        owned,
        [
            process("webfarm-php-fpm.service", "/usr/lib/ours"),
            process("cron.service", "/usr/lib/theirs", "/usr/lib/ours"),
            process("", "/usr/lib/theirs"),
        ],
        Packages(),
    )
    assert found.affects == {
        "webfarm-php-fpm.service": ("ours",),
        "cron.service": ("ours", "theirs"),
        "command": ("theirs",),
    }
    assert found.disruptive == {
        "ours": "webfarm-php-fpm.service runs from its files",
        "libc6:i386": "the pillar's webfarm:packages:disruptive has libc6",
    }


@pytest.mark.parametrize(
    "name",
    [
        *(
            "linux-image-6.1.0-40-amd64",
            "libc6",
            "nginx-light",
            "php8.2-fpm",
            "systemd",
            "memcached",
        ),
        *("sys-kernel/gentoo-kernel-bin", "sys-libs/glibc", "www-servers/nginx", "dev-lang/php"),
    ],
)
def test_by_default_what_runs_the_farm_is_disruptive(name: str) -> None:
    assert name in disruption.look({name: frozenset()}, (), Packages()).disruptive


def test_the_manager_is_the_pillars_or_the_distributions() -> None:
    assert manager(Packages(), {"os_family": "Debian"}) == "apt"
    assert manager(Packages(), {"os_family": "Gentoo"}) == "portage"
    assert manager(Packages(manager="portage"), {"os_family": "Debian"}) == "portage"
    with pytest.raises(WebfarmError, match="os_family 'RedHat'"):
        manager(Packages(), {"os_family": "RedHat"})


@pytest.mark.parametrize(
    "given",
    [
        *({"manager": "yum"}, {"disruptive": ["a b"]}, {"disruptive": ["-x"]}, {"unknown": 1}),
        *({"portage": {"bin": "usr/bin"}}, {"portage": {"distcc": ["a;b"]}}),
        *({"portage": {"port": 0}}, {"portage": {"sign": "nobody"}}, {"services": ["$(id)"]}),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Packages.model_validate(given)
    assert Portage().bin == "/usr/bin"


def test_this_machine_is_looked_at() -> None:
    found = hw_profiles.machine()
    assert found.memory_mib > 100 and found.cpu and found.disk in ("ssd", "hdd", "unknown")
    fits = HwProfile(flags=tuple(sorted(found.flags))[:3], memory_mib=found.memory_mib)
    assert hw_profiles.differences(fits, found) == []


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        (HwProfile(cpu_family="AuthenticAMD"), "the CPU is .*expected AuthenticAMD"),
        (HwProfile(flags=("avx2", "avx512f")), "the CPU lacks avx512f"),
        (HwProfile(memory_mib=32768), "15900 MiB of memory, expected 32768"),
        (HwProfile(disk="hdd"), "its disk is ssd, expected hdd"),
    ],
)
def test_a_machine_of_another_profile_is_refused(profile: HwProfile, complaint: str) -> None:
    right = HwProfile(cpu_family="6 85", flags=("avx2",), memory_mib=16384, disk="ssd")
    hw_profiles.check({"right": right, "wrong": profile}, "right", MACHINE)
    with pytest.raises(WebfarmError, match=complaint) as refused:
        hw_profiles.check({"right": right, "wrong": profile}, "wrong", MACHINE)
    assert "It would fit right" in str(refused.value)
    with pytest.raises(WebfarmError, match="no hw_profile other"):
        hw_profiles.check({"right": right}, "other", MACHINE)
    hw_profiles.check({}, "other", MACHINE)


def test_the_disk_is_the_first_that_is_one(tmp_path: Path) -> None:
    for name, rotational in (("loop0", "1"), ("sda", "1"), ("sdb", "0")):
        queue = tmp_path / "block" / name / "queue"
        queue.mkdir(parents=True)
        (queue / "rotational").write_text(rotational + "\n")
    assert hw_profiles.machine(sys=tmp_path).disk == "hdd"
    assert hw_profiles.machine(sys=tmp_path / "none").disk == "unknown"


def test_a_profile_in_use_must_be_described_and_have_a_server_that_certifies(
    pillar: dict[str, Any],
) -> None:
    server = pillar["sites"]["site1"]["farms"]["farm1"]["servers"]["site1-farm1-ws1"]
    server["hw_profile"] = "r640"
    assert topology.parse(pillar).hw_profiles == {}
    pillar["hw_profiles"] = {"default": {}, "r660": {}}
    pillar["preproduction"] = {"servers": {"pre": {"address": "10.77.0.51"}}}
    with pytest.raises(BadTopology) as refused:
        topology.parse(pillar)
    assert refused.value.mistakes == [
        "webfarm.sites.site1.farms.farm1.servers.site1-farm1-ws1.hw_profile: 'r640': is not in"
        " webfarm.hw_profiles (default, r660)",
        "webfarm.preproduction.servers: none has hw_profile 'r640', which"
        " webfarm.sites.site1.farms.farm1.servers.site1-farm1-ws1 has: nothing could be certified"
        " for it",
    ]
    pillar["hw_profiles"]["r640"] = {"flags": ["avx2"], "disk": "ssd"}
    pillar["preproduction"]["servers"]["pre2"] = {"address": "10.77.0.52", "hw_profile": "r640"}
    assert topology.parse(pillar).hw_profiles["r640"].disk == "ssd"


@pytest.mark.parametrize(
    "given", [{"cflags": "-O2; id"}, {"cflags": "$(id)"}, {"flags": ["AVX 2"]}, {"disk": "tape"}]
)
def test_a_profile_that_makes_no_sense_is_refused(
    pillar: dict[str, Any], given: dict[str, Any]
) -> None:
    pillar["hw_profiles"] = {"default": given}
    with pytest.raises(BadTopology, match=r"webfarm\.hw_profiles\.default"):
        topology.parse(pillar)
