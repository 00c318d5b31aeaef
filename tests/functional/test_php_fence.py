"""The guard and /ready, through the state tree's own nginx configuration."""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from php_world import (
    BALANCER,
    OTHER_FARM,
    PHP,
    PHP_FPM,
    PREPRODUCTION,
    STRANGER,
    WS1,
    Client,
    Site,
    running_site,
)


@pytest.fixture(scope="module")
def world() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture
def site(world: Site) -> Site:
    world.heal()
    return world


def test_an_answer_says_who_gave_it(site: Site) -> None:
    answer = Client(site).ask()
    assert answer.status == 200
    assert answer.headers["X-Webfarm-Release"] == "2026.11.9"
    assert answer.headers["X-Webfarm-Farm"] == "farm1"
    assert answer.headers["X-Webfarm-Server"] == WS1
    assert answer.json == {
        "session": answer.json["session"],
        "count": 1,
        "release": "2026.11.9",
        "php": site.php,
        "webapp": "1",
        "site": "site1",
        "farm": "farm1",
        "server": WS1,
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("expected", ["2026.11.10", "2026.11.09", "", "'\"\\", None])
def test_a_request_for_another_release_is_answered_425_and_nothing_is_processed(
    site: Site, method: str, expected: str | None
) -> None:
    client = Client(site)
    headers = {} if expected is None else {"X-Webfarm-Release": expected}
    answer = client.ask(method=method, body=b"x", release=None, headers=headers)
    assert answer.status == 425
    assert answer.headers["X-Webfarm-Fence"] == "2026.11.9"
    assert answer.headers["X-Webfarm-Release"] is None
    assert client.cookies == {}
    assert site.sql("SELECT COUNT(*) FROM webfarm.sessions") == "0"


def test_the_fence_follows_the_webapp_behind_the_symlink(site: Site) -> None:
    server = site.servers[WS1]
    client = Client(site)
    assert client.ask().status == 200
    server.switch_webapp("2")
    assert client.ask().status == 425
    client.release = "2026.11.10"
    assert client.ask().json["webapp"] == "2"


def test_a_pair_that_no_release_has_is_fenced(site: Site) -> None:
    server = site.servers[WS1]
    (server.home / "srv/webapp/versions/3").symlink_to("1")
    tree = server.home / "srv/webapp/versions/3"
    tree.unlink()
    (server.home / "srv/webapp/versions/1").rename(tree)
    try:
        server.switch_webapp("3")
        answer = Client(site).ask()
        assert answer.status == 425
        assert answer.headers["X-Webfarm-Fence"] == f"unknown:{site.php}+3"
    finally:
        tree.rename(server.home / "srv/webapp/versions/1")
        server.switch_webapp("1")


def test_the_server_itself_may_ask_without_naming_a_release(site: Site) -> None:
    assert Client(site).ask(release=None, source="127.0.0.1").status == 200
    assert Client(site).ask(release="2026.11.10", source="127.0.0.1").status == 425


@pytest.mark.parametrize("path", ["/", "/index.php", "/ready"])
def test_only_the_sites_balancers_may_ask(site: Site, path: str) -> None:
    assert Client(site).ask(path=path, source=STRANGER).status == 403
    forged = {"X-Forwarded-For": BALANCER}
    assert Client(site).ask(path=path, source=STRANGER, headers=forged).status == 403


@pytest.mark.parametrize(
    "path", ["/", "/index.php", "/pages", "/pages/read.php", "/nowhere", "/x.php"]
)
def test_no_scripts_source_is_ever_served(site: Site, path: str) -> None:
    answer = Client(site).ask(path=path)
    assert b"<?php" not in answer.body
    assert answer.status == (404 if path == "/x.php" else 200 if path != "/pages" else 301)


@pytest.mark.parametrize("path", ["/.git/config", "/../etc/session.php", "/.webfarm/other"])
def test_what_is_hidden_is_not_served(site: Site, path: str) -> None:
    assert Client(site).ask(path=path).status in (400, 404)


def test_the_webapp_sees_the_clients_address_and_https(site: Site) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    answer = Client(site).ask(path="/pages/client.php", headers=headers)
    assert answer.json == {"address": "203.0.113.9", "https": "on"}


def test_php_fpms_status_is_for_the_server_itself(site: Site) -> None:
    assert Client(site).ask(path="/.webfarm/fpm-status").status == 404
    answer = Client(site).ask(path="/.webfarm/fpm-status?json", source="127.0.0.1")
    assert answer.json["pool"] == "www"


def test_ready_is_200_for_the_release_that_runs(site: Site) -> None:
    answer = Client(site).ask(path="/ready")
    assert answer.status == 200
    assert answer.headers["X-Webfarm-Release"] == "2026.11.9"
    assert answer.json == {
        "release": "2026.11.9",
        "php": site.php,
        "webapp": "1",
        "ready": True,
        "why": "",
    }


@pytest.mark.parametrize("release", ["2026.11.10", None, "nonsense"])
def test_ready_is_503_for_any_other_release_and_says_why(site: Site, release: str | None) -> None:
    answer = Client(site).ask(path="/ready", release=release)
    assert answer.status == 503
    assert answer.json["ready"] is False
    assert answer.json["release"] == "2026.11.9"
    assert (release or "no X-Webfarm-Release") in answer.json["why"]


def test_ready_is_503_when_the_session_configuration_cannot_be_read(site: Site) -> None:
    configuration = site.servers[OTHER_FARM].home / "etc/session.php"
    hidden = configuration.rename(configuration.with_name("hidden"))
    try:
        answer = Client(site).ask(OTHER_FARM, path="/ready")
        assert answer.status == 503
        assert "session.php" in answer.json["why"]
        assert Client(site).ask(OTHER_FARM).status == 503
    finally:
        hidden.rename(configuration)
    assert Client(site).ask(OTHER_FARM, path="/ready").status == 200


def test_a_webapp_without_its_front_page_is_not_ready(site: Site) -> None:
    page = site.servers[WS1].home / "srv/webapp/versions/1/public/index.php"
    hidden = page.rename(page.with_name("hidden"))
    try:
        assert Client(site).ask(path="/ready").status == 503
    finally:
        hidden.rename(page)


@pytest.mark.parametrize("query", ["ms=x", "ms=-1", "ms=1e3", "burn=", "burn=1;2", "ms[]=1"])
def test_the_labs_webapp_answers_400_to_values_that_it_cannot_use(site: Site, query: str) -> None:
    answer = Client(site).ask(path=f"/?{query}")
    assert answer.status == 400
    assert "milliseconds" in answer.json["error"]


def test_the_labs_webapp_takes_posts_and_says_how_much_came(site: Site) -> None:
    client = Client(site)
    answer = client.ask(method="POST", body=b"x" * 100_000)
    assert (answer.json["count"], answer.json["received"]) == (1, 100_000)
    assert client.ask(method="DELETE").status == 405


@pytest.mark.parametrize("manager", ["apt", "portage"])
def test_a_preproduction_servers_configuration_is_valid(site: Site, manager: str) -> None:
    home = site.servers[WS1].home  # its folders will do
    checks = {
        "php/files/php-fpm.conf.jinja": [PHP_FPM, "--test", "--fpm-config"],
        "php/files/session.php.jinja": [PHP, "-l"],
        "nginx/files/nginx.conf.jinja": ["nginx", "-t", "-c"],
    }
    for template, command in checks.items():
        file = site.home / "preproduction"
        file.write_text(site.render(template, PREPRODUCTION, home, manager=manager))
        done = subprocess.run([*command, str(file)], capture_output=True, text=True)
        assert done.returncode == 0, (template, done.stderr)


def test_a_highstate_never_renames_the_release_that_a_server_runs(
    site: Site, tmp_path: Path
) -> None:
    template = "php/files/releases.php.jinja"
    fresh = site.render(template, WS1, tmp_path)
    assert fresh == (
        "<?php\nreturn [\n"
        f"    '{site.php}+2' => '2026.11.10',\n    '{site.php}+1' => '2026.11.9',\n];"
    )
    for kind, version in (("php", site.php), ("webapp", "1")):
        folder = tmp_path / "srv/webfarm" / kind
        folder.mkdir(parents=True)
        (folder / "current").symlink_to(f"versions/{version}")
    known = tmp_path / "etc/webfarm/releases.php"
    known.parent.mkdir(parents=True)
    known.write_text(fresh.replace("2026.11.9", "as-it-was"))
    assert site.render(template, WS1, tmp_path) == (
        "<?php\nreturn [\n"
        f"    '{site.php}+2' => '2026.11.10',\n    '{site.php}+1' => 'as-it-was',\n];"
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("left", ["socket", "nothing"])
def test_a_request_that_php_fpm_did_not_take_is_answered_425(
    site: Site, method: str, left: str
) -> None:
    server = site.servers[WS1]
    socket_file = server.home / "run/php-www.sock"
    server.fpm.stop(signal.SIGKILL)
    try:
        if left == "nothing":
            socket_file.unlink()
        assert Client(site).ask(method=method, body=b"x").status == 425
    finally:
        server.restart_php()
    assert Client(site).ask(method=method, body=b"x").status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_did_not_get_into_php_fpms_queue_is_answered_425(
    site: Site, method: str
) -> None:
    server = site.servers[WS1]
    path = server.home / "run/php-www.sock"
    server.fpm.stop(signal.SIGKILL)
    path.unlink(missing_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            queue = stack.enter_context(socket.socket(socket.AF_UNIX))
            queue.bind(str(path))
            path.chmod(0o666)
            queue.listen(0)
            with pytest.raises(BlockingIOError):
                for _ in range(100):
                    waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                    waiting.setblocking(False)
                    waiting.connect(str(path))
            assert Client(site).ask(method=method, body=b"x").status == 425
    finally:
        server.restart_php()
    assert Client(site).ask(method=method, body=b"x").status == 200
