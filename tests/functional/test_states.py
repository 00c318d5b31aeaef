"""The state tree and the pillar, as the example topologies' roles see them; nothing is applied."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config

ROOT = Path(__file__).parent.parent.parent
TLS, SITE1, SITE2 = "the certificate's key", "the password of site1", "the password of site2"
Look = Callable[[str, str], salt.client.Caller]

ROLES = {
    "master": ("store", {"/etc/rsyncd.conf"}),
    "lb1": ("primary", {"/etc/haproxy/haproxy.cfg"}),
    "site1-lb1": ("balancer", {"/etc/haproxy/haproxy.cfg"}),
    "site1-db1": ("database", {"sessions_schema"}),
    "site1-farm1-ws1": (
        "server",
        {"webfarm-php-fpm", "nginx_service", "memcached_service"}
        | {"/usr/share/webfarm/memcached/retire.php"},  # where the unit expects it
    ),
    "preproduction-r640": ("preproduction", {"webfarm-php-fpm", "nginx_service"}),
}


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """A minion of a size, which has everything but a master."""

    def minion(size: str, id: str) -> salt.client.Caller:
        home = tmp_path_factory.mktemp(f"{size}-{id}")
        pillar = home / "pillar"
        shutil.copytree(ROOT / "pillar", pillar)
        shutil.copy(pillar / f"{size}.sls", pillar / "cluster.sls")
        (pillar / "releases.sls").write_text(
            'webfarm: {releases: {"2026.11.2": {php: "8.2.99", webapp: "2"}}}\n'
        )
        (pillar / "secrets").mkdir()
        for name, secret in (
            ("tls", f'tls_pem: "{TLS}"'),
            ("site1", f'database_password: "{SITE1}"'),
            ("site2", f'database_password: "{SITE2}"'),
        ):
            (pillar / f"secrets/{name}.sls").write_text(f"webfarm_secrets: {{{secret}}}\n")
        opts = salt.config.minion_config(None)
        opts.update(
            id=id,
            file_client="local",
            root_dir=str(home),
            cachedir=str(home / "cache"),
            pki_dir=str(home / "pki"),
            sock_dir=str(home / "sock"),
            log_file=str(home / "log"),
            conf_file=str(home / "minion"),
            extension_modules=str(home / "extmods"),
            file_roots={"base": [str(ROOT / "salt"), str(ROOT)]},
            pillar_roots={"base": [str(pillar)]},
            module_dirs=[str(ROOT)],
        )
        return salt.client.Caller(mopts=opts)

    return minion


def states(caller: salt.client.Caller) -> dict[str, Any]:
    found = caller.cmd("state.show_highstate")
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize("id", ROLES)
def test_each_role_gets_its_states(look: Look, id: str) -> None:
    caller = look("full", id)
    role, expected = ROLES[id]
    assert caller.cmd("webfarm_topology.node")["role"] == role
    found = states(caller)
    assert expected <= found.keys()
    assert "/etc/salt/minion.d/webfarm.conf" in found


@pytest.mark.parametrize("size", ["small", "ha"])
def test_every_size_renders(look: Look, size: str) -> None:
    assert states(look(size, "site1-farm1-ws1"))


@pytest.mark.parametrize(
    ("id", "secret"),
    [
        ("lb1", {"tls_pem": TLS}),
        ("site1-db1", {"database_password": SITE1}),
        ("site2-farm2-ws1", {"database_password": SITE2}),
        ("site1-lb1", None),
        ("master", None),
        ("preproduction-r640", None),
        ("site1-db1.example", None),
    ],
)
def test_a_secret_reaches_only_those_that_need_it(
    look: Look, id: str, secret: dict[str, str] | None
) -> None:
    pillar = look("full", id).cmd("pillar.items", unmask=True)
    assert pillar.get("webfarm_secrets") == secret
    assert pillar["webfarm"]["releases"]["2026.11.2"]["php"] == "8.2.99"


def test_no_states_for_a_minion_that_the_pillar_does_not_name(look: Look) -> None:
    found = look("full", "stranger").cmd("state.show_highstate")
    assert isinstance(found, list), "the error itself"
    assert "minion 'stranger' is not in the pillar" in str(found[0])


def test_a_mistake_in_the_pillar_stops_a_highstate_before_it_begins(look: Look) -> None:
    caller = look("full", "site1-farm1-ws1")
    cluster = Path(caller.opts["pillar_roots"]["base"][0]) / "cluster.sls"
    cluster.write_text(cluster.read_text().replace("10.77.1.5}", "10.77.1.500}"))
    caller = salt.client.Caller(mopts=caller.opts)
    found = caller.cmd("state.show_highstate")
    assert isinstance(found, list), "the error itself"
    assert "webfarm.sites.site1.database.address" in str(found[0])
