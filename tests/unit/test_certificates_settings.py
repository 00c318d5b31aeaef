"""The settings of preproduction, the words of a set, what a reply may be: mistakes are named."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm import topology
from webfarm.certificates import shapes
from webfarm.certificates.bench import lease_name
from webfarm.certificates.commands import servers_of
from webfarm.certificates.model import Subject
from webfarm.certificates.table import show_certificates
from webfarm.certificates.words import base, named
from webfarm.errors import BadTopology, WebfarmError
from webfarm.rollout.report import brief

from tests.unit.bench_world import World, with_preproduction

ROOT = Path(__file__).parents[2]


def mistake(pillar: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(BadTopology) as caught:
        topology.parse(with_preproduction(pillar, **settings))
    return "\n".join(caught.value.mistakes)


def test_without_settings_a_certificate_takes_a_page_and_a_minutes_soak(
    pillar: dict[str, Any],
) -> None:
    known = topology.parse(with_preproduction(pillar)).preproduction
    assert (known.certify, known.max_age_days) == (("packages", "releases"), 90)
    assert [str(check) for check in known.smoke] == ["GET /: 200"]
    assert (known.soak_seconds, known.soak_requests, known.command) == (60, 600, ())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"certify": ["package"]}, "preproduction.certify.0: 'package'"),
        ({"max_age_days": 0}, "preproduction.max_age_days: 0"),
        ({"smoke": []}, "preproduction.smoke"),
        ({"smoke": [{"path": "shop"}]}, "preproduction.smoke.0.path: 'shop'"),
        ({"smoke": [{"path": "/a b"}]}, "preproduction.smoke.0.path"),
        ({"smoke": [{"path": "/\r\nX: 1"}]}, "preproduction.smoke.0.path"),
        ({"smoke": [{"status": 99}]}, "preproduction.smoke.0.status: 99"),
        ({"smoke": [{"contains": "a\x1b"}]}, "preproduction.smoke.0.contains"),
        ({"smoke": [{"url": "/"}]}, "preproduction.smoke.0.url: is not a known key"),
        ({"command": "/bin/true x"}, "preproduction.command"),
        ({"command": ["true"]}, "must begin with the absolute path of a program"),
        ({"command": ["/bin/true", "a\x00b"]}, "preproduction.command.1"),
        ({"command": ["/bin/true", "x" * 999, *["y" * 999] * 4]}, "longer than 4000 characters"),
        ({"soak_requests": 0}, "preproduction.soak_requests: 0"),
        ({"soak_seconds": 86401}, "preproduction.soak_seconds: 86401"),
        ({"reboot_seconds": "soon"}, "preproduction.reboot_seconds: 'soon'"),
        ({"sign": True}, "preproduction.sign: is not a known key"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_its_path(
    pillar: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    assert said in mistake(pillar, **settings)


def test_a_profile_has_the_first_of_its_servers(pillar: dict[str, Any]) -> None:
    data = with_preproduction(pillar)
    data["preproduction"]["servers"]["pre3"] = {"address": "10.77.0.53", "hw_profile": "r640"}
    assert servers_of(topology.parse(data)) == {"r640": "pre1", "r660": "pre2"}


@pytest.mark.parametrize(
    ("word", "name", "version"),
    [
        ("nginx", "nginx", None),
        ("nginx=1.22.1-9", "nginx", "1.22.1-9"),
        ("libssl3=3.0.2-0+deb12u1", "libssl3", "3.0.2-0+deb12u1"),
        ("www-servers/nginx", "www-servers/nginx", None),
        ("dev-lang/php:8.2", "dev-lang/php", None),
        ("=dev-lang/php-8.2.36-r1:8.2", "dev-lang/php", "8.2.36-r1"),
        ("=sys-libs/db-4.8.30_p2", "sys-libs/db", "4.8.30_p2"),
        ("=x11-libs/gtk+-2-extra-1.0", "x11-libs/gtk+-2-extra", "1.0"),
    ],
)
def test_a_word_names_a_package_and_perhaps_a_version(
    word: str, name: str, version: str | None
) -> None:
    assert named(word) == (name, version)


def test_an_architecture_and_a_slot_are_no_part_of_a_name() -> None:
    assert [base(name) for name in ("libc6:i386", "dev-lang/php:8.2", "nginx")] == [
        *("libc6", "dev-lang/php", "nginx"),
    ]


def test_a_lease_of_a_preproduction_server_is_a_name_that_no_site_can_have(
    pillar: dict[str, Any],
) -> None:
    assert lease_name("pre1") == "webfarm.pre1"
    long = [lease_name(letter * 64) for letter in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) <= 64 for name in long)
    pillar["sites"]["webfarm.pre1"] = pillar["sites"]["site1"]
    with pytest.raises(BadTopology, match="is reserved"):
        topology.parse(pillar)


def test_the_command_to_type_again_is_one_that_salt_reads_the_same(tmp_path: Path) -> None:
    commands = {
        Subject("release", ("2026.11.2",)).command: "release=2026.11.2",
        Subject("release", ("2026.11",)).command: "release=\"'2026.11'\"",
        Subject("packages", ("a", "b=1:2-3")).command: "packages='[a, b=1:2-3]'",
    }
    for command, argument in commands.items():
        assert command == f"salt-run upgrade.certify {argument}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
def test_whatever_a_minion_says_is_checked_or_refused(value: Any) -> None:
    checks = [
        lambda: shapes.expected(value, "x"),
        lambda: shapes.versions(value, "x"),
        lambda: shapes.affected(value, "x"),
        lambda: shapes.digest(value),
        lambda: shapes.tree(value),
        lambda: shapes.boot(value),
        lambda: shapes.name(value, "x"),
        lambda: shapes.flag(value, "x"),
    ]
    for check in checks:
        try:
            check()
        except shapes.BadShape as error:
            assert str(error).isprintable()
            assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("nginx.service", True),
        ("php8.2-fpm.service", True),
        ("user@0.service", True),
        *((odd, False) for odd in ("init.scope", "nginx", "-x.service", "a b.service", "")),
        *((odd, False) for odd in ("a/b.service", "x.service\n", "nginx: worker", "dbus.socket")),
    ],
)
def test_only_a_service_is_restarted(name: str, service: bool) -> None:
    assert shapes.is_service(name) is service


def test_the_table_has_a_line_for_each_certificate_and_says_when_there_is_none(
    tmp_path: Path, pillar: dict[str, Any]
) -> None:
    from webfarm.certificates import commands

    world = World(tmp_path, with_preproduction(pillar))
    stream = io.StringIO()
    show_certificates(commands.certificates(world.context), stream)
    assert "there is no certificate" in stream.getvalue()
    world.certify(packages="[openssl]".strip("[]"))
    world.certify(release="2026.11.2")
    commands.revoke(world.context, 1, "a [bold]reason[/bold]")
    data = commands.certificates(world.context)
    show_certificates(data, stream)
    lines = stream.getvalue().splitlines()[-2:]
    assert [line.split()[0] for line in lines] == ["2", "1"]
    assert "release 2026.11.2" in lines[0] and "r640, r660" in lines[0] and "valid" in lines[0]
    assert "revoked by alice: a [bold]reason[/bold]" in lines[1]
    assert brief(data) == {"certificates": 2}
    show_certificates({"result": True}, stream)
    with pytest.raises(WebfarmError, match="limit is 0"):
        commands.certificates(world.context, limit=0)
