"""The gates: production takes what is certified for each of its profiles, or says what to type."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from webfarm.certificates import commands as certificates
from webfarm.certificates import packages, releases
from webfarm.certificates.book import opened
from webfarm.certificates.gate import path
from webfarm.certificates.model import Uncertified
from webfarm.errors import WebfarmError
from webfarm.rollout import back, commands, control, status
from webfarm.rollout.report import brief

from tests.unit.bench_world import TREES, World, with_preproduction
from tests.unit.easy_cluster import Shop, pillar_of

RELEASE = "2026.11.2"


class Both:
    """A shop, and its preproduction; they share the journal, the store and the clock."""

    def __init__(self, folder: Path, pillar: dict[str, Any]) -> None:
        data = with_preproduction(pillar_of(pillar))
        self.shop = Shop(folder, data)
        self.world = World(folder, data)
        self.context = self.shop.context
        self.trees = dict(TREES)
        self.context.digests = lambda kind, version: self.trees[kind]
        self.world.now = self.shop.cluster.now

    def certify(self, **given: Any) -> dict[str, Any]:
        self.world.now = self.shop.cluster.now
        data = self.world.certify(**(given or {"release": RELEASE}))
        self.shop.cluster.now = self.world.now
        return data

    def later(self, days: float) -> None:
        self.shop.cluster.now += days * 86400

    def refused(self, **given: Any) -> str:
        """An upgrade is refused before anything is asked; the plan says the same."""
        asked, called = len(self.shop.cluster.observed), len(self.shop.cluster.calls)
        with pytest.raises(Uncertified) as caught:
            commands.upgrade(self.context, "site1", "farm1", RELEASE, **given)
        assert len(self.shop.cluster.observed) == asked
        assert len(self.shop.cluster.calls) == called
        plan = commands.plan(self.context, "site1", "farm1", RELEASE)
        assert not plan["result"]
        assert plan["farms"][0]["refused"] == [str(caught.value)] == [plan["message"]]
        assert plan["farms"][0]["steps"]
        assert "next" not in plan
        return str(caught.value)


@pytest.fixture
def both(tmp_path: Path, pillar: dict[str, Any]) -> Both:
    return Both(tmp_path, pillar)


def test_an_uncertified_release_is_refused_before_anything_is_asked(both: Both) -> None:
    said = both.refused()
    assert said == (
        "release 2026.11.2 is not certified: for r640 there is no certificate; for r660 there is "
        "no certificate. Nothing was changed; type `salt-run upgrade.certify release=2026.11.2 "
        "profiles=r640,r660`, or go ahead without with force='REASON'"
    )
    assert not Path(both.context.journal_path).exists()
    for site in ("site1", None):
        with pytest.raises(Uncertified):
            commands.upgrade(both.context, site, None, RELEASE)


def test_a_certified_release_goes_to_production(both: Both) -> None:
    assert both.certify()["result"]
    assert commands.plan(both.context, "site1")["result"]
    assert commands.upgrade(both.context, "site1", None, RELEASE)["state"] == "done"
    assert both.shop.releases() == {"farm1": RELEASE, "farm2": RELEASE}


def test_each_profile_in_scope_needs_it_and_no_other(both: Both) -> None:
    both.certify(release=RELEASE, profiles="r640")
    assert "for r660 there is no certificate. Nothing" in both.refused()
    both.certify(release=RELEASE, profiles="r660")  # another certificate will do
    assert commands.upgrade(both.context, "site1", "farm1", RELEASE)["state"] == "done"


def test_the_store_that_changed_since_is_refused(both: Both) -> None:
    both.certify()
    both.trees["webapp"] = "9" * 64
    said = both.refused()
    assert "the tree of webapp 2 has changed since: certified is 2222222222222222" in said
    assert "the store has 9999999999999999" in said


def test_a_pair_that_the_pillar_has_changed_since_is_refused(
    both: Both, tmp_path: Path, pillar: dict[str, Any]
) -> None:
    both.certify()
    changed = {**pillar["releases"], RELEASE: {"php": "8.2.32", "webapp": "3"}}
    other = Shop(tmp_path, with_preproduction(pillar_of({**pillar, "releases": changed})))
    other.cluster.now = both.shop.cluster.now
    with pytest.raises(Uncertified, match=r"another pair was certified \(php 8\.2\.36, webapp 2\)"):
        commands.upgrade(other.context, "site1", "farm1", RELEASE)


def test_without_the_store_here_the_certified_digests_are_what_servers_must_get(
    both: Both,
) -> None:
    both.certify()
    both.context.digests = None
    commands.upgrade(both.context, "site1", "farm1", RELEASE)
    staged = [given for call, _, given in both.shop.cluster.calls if call.endswith(".stage")]
    assert [given["digests"] for given in staged] == [TREES]


def test_an_expired_certificate_is_refused_and_a_clock_that_went_back_too(both: Both) -> None:
    both.certify()
    both.later(89)
    assert commands.plan(both.context, "site1")["result"]
    both.later(2)
    assert "certificate 1 has expired: it is 91 d old, at most 90 d count" in both.refused()
    both.later(-100)
    assert "has expired" in both.refused()


def test_a_revoked_certificate_is_refused_and_so_are_the_older_ones(both: Both) -> None:
    both.certify()
    both.certify()
    done = certificates.revoke(both.context, 2, "loses carts")
    assert done["next"] == "salt-run upgrade.certify release=2026.11.2"
    said = both.refused()
    assert "certificate 2 was revoked by alice: loses carts" in said
    with pytest.raises(WebfarmError, match="revoked already"):
        certificates.revoke(both.context, 2, "again")
    with pytest.raises(WebfarmError, match="reason is missing"):
        certificates.revoke(both.context, 1)
    with pytest.raises(WebfarmError, match="there is no certificate 9"):
        certificates.revoke(both.context, 9, "x")
    with both.context.journal() as journal:
        (record,) = journal.records()
    assert (record["what"], record["why"]) == ("revoke", "loses carts")
    both.certify()
    assert commands.plan(both.context, "site1")["result"]


def test_a_failed_certification_never_counts_and_takes_nothing_from_an_older_one(
    both: Both,
) -> None:
    both.world.code = 1
    both.world.broken_service = True
    both.world.soaking = lambda machine: setattr(machine, "ready", False)
    assert not both.certify()["result"]
    assert "certificate 1 failed: pre1 is not ready after the soak" in both.refused()
    with pytest.raises(WebfarmError, match="certificate 1 is failed"):
        certificates.revoke(both.context, 1, "x")
    both.world.soaking = lambda machine: None
    for machine in both.world.machines.values():
        machine.ready = True
    both.certify()
    both.world.soaking = lambda machine: setattr(machine, "ready", False)
    both.certify()
    assert commands.plan(both.context, "site1")["result"]


def test_one_profile_that_fails_fails_the_certificate_of_all(both: Both) -> None:
    both.world.machines["pre2"].ready = False
    assert not both.certify()["result"]
    with pytest.raises(Uncertified), opened(path(both.context.journal_path)) as book:
        releases.require(book, both.context.topology, RELEASE, ["r640"], TREES, both.world.now)


def test_force_needs_a_reason_goes_ahead_and_is_in_the_history(both: Both) -> None:
    for empty in ("", "  ", True, 7):
        with pytest.raises(WebfarmError, match="force"):
            commands.upgrade(both.context, "site1", "farm1", RELEASE, force=empty)
    assert both.shop.cluster.calls == []
    data = commands.upgrade(both.context, "site1", "farm1", RELEASE, force="a hotfix\x1b[1m")
    assert data["state"] == "done"
    shown = status.history(both.context, id=data["run"])
    (record,) = shown["records"]
    assert (record["what"], record["who"], record["why"]) == ("force", "alice", "a hotfix [1m")
    assert "for r640 there is no certificate" in record["data"]["past"]
    assert any("force a hotfix" in text for text in brief(shown)["decisions"])


def test_force_that_was_not_needed_is_not_recorded(both: Both) -> None:
    both.certify()
    data = commands.upgrade(both.context, "site1", "farm1", RELEASE, force="to be sure")
    assert status.history(both.context, id=data["run"])["records"] == []


def test_a_run_that_was_begun_goes_on_and_goes_back_without_a_certificate(both: Both) -> None:
    both.certify()
    both.shop.cluster.on_call = lambda function: setattr(both.shop, "stop", True)
    run = commands.upgrade(both.context, "site1", None, RELEASE)
    assert run["state"] == "paused"
    both.shop.cluster.on_call = lambda function: None
    both.shop.stop = False
    certificates.revoke(both.context, 1, "loses carts")
    assert commands.plan(both.context, "site1", None, RELEASE)["result"]
    assert control.resume(both.context)["state"] == "done"
    gone = back.rollback(both.context, run["run"], reset_sessions=True)
    assert gone["state"] == "done"
    assert both.shop.releases() == {"farm1": "2026.11.1", "farm2": "2026.11.1"}
    both.refused()


@pytest.mark.parametrize("settings", [{"certify": []}, {"certify": ["packages"]}, {"servers": {}}])
def test_without_preproduction_or_the_wish_for_it_nothing_is_gated(
    tmp_path: Path, pillar: dict[str, Any], settings: dict[str, Any]
) -> None:
    data = with_preproduction(pillar_of(pillar))
    data["preproduction"] |= settings
    shop = Shop(tmp_path, data)
    assert commands.upgrade(shop.context, "site1", "farm1", RELEASE)["state"] == "done"
    assert releases.needed(shop.context.topology) is False
    assert packages.needed(shop.context.topology) is (settings == {"certify": ["packages"]})


# -- packages --------------------------------------------------------------------------------------


def required(both: Both, words: Any, profiles: Any = ("r640",)) -> Any:
    with opened(path(both.context.journal_path)) as book:
        now = both.shop.cluster.now
        return packages.require(book, both.context.topology, words, profiles, now)


def test_a_set_is_found_by_its_words_in_any_order_and_only_as_a_whole(both: Both) -> None:
    both.certify(packages="openssl nginx")
    assert set(required(both, ["nginx", "openssl"])["r640"]) == {"nginx", "openssl", "libssl3"}
    assert set(required(both, "openssl,nginx", ["r640", "r660"])) == {"r640", "r660"}
    for words in (["nginx"], ["openssl", "nginx", "bash"], ["nginx=1.22.1", "openssl"]):
        with pytest.raises(Uncertified, match="there is no certificate"):
            required(both, words)
    with pytest.raises(Uncertified, match="for r999 there is no certificate"):
        required(both, ["nginx", "openssl"], ["r640", "r999"])
    both.later(91)
    with pytest.raises(Uncertified) as caught:
        required(both, ["nginx", "openssl"])
    assert "`salt-run upgrade.certify packages='[nginx, openssl]' profiles=r640`" in str(
        caught.value
    )


def test_what_counts_is_what_was_installed_when_it_was_certified_last(both: Both) -> None:
    both.certify(packages="nginx")
    both.world.archive["nginx"] = ("1.22.2", "sha256:" + "d" * 64)
    both.certify(packages="nginx")
    assert required(both, "nginx")["r640"]["nginx"]["to"] == "1.22.2"


# -- the file --------------------------------------------------------------------------------------


def test_the_file_is_its_owners_only_and_lies_beside_the_journal(both: Both) -> None:
    both.certify()
    file = Path(both.context.journal_path).with_name("webfarm_certificates.sqlite")
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    certificates.certificates(both.context)
    assert file.stat().st_mode & 0o777 == 0o600


def test_looking_makes_no_file(both: Both) -> None:
    assert certificates.certificates(both.context) == {"certificates": []}
    assert not path(both.context.journal_path).exists()


def damage(both: Both, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path(both.context.journal_path))) as connection:
        connection.execute("PRAGMA ignore_check_constraints=1")
        connection.execute(statement, values)
        connection.commit()


HOSTILE: list[tuple[str, str, Any]] = [
    ("certificates", "words", '["2026.11.2", "x"]'),
    ("certificates", "profiles", '["r640", "../x"]'),
    ("certificates", "profiles", '["r640", "r660", "r999"]'),
    ("certificates", "profiles", "[]"),
    ("certificates", "profiles", "[" * 100_000),
    ("certificates", "ended", "yesterday"),
    ("certificates", "ended", 1e300),
    ("certificates", "ended", None),
    ("certificates", "started", -1.0),
    ("certificates", "who", b"\xff"),
    ("tested", "state", "running"),
    ("tested", "state", "failed"),
    ("tested", "release", "{}"),
    ("tested", "release", '{"php": "8.2.36", "webapp": "2", "digests": {"php": 7}}'),
    ("tested", "release", '{"php": 8, "webapp": "2", "digests": {}}'),
    ("tested", "release", "7"),
    ("tested", "release", "{"),
    ("tested", "packages", '{"x": {"to": "1; rm", "digest": "y"}}'),
    ("tested", "evidence", "{}"),
    ("tested", "boots", '["x"]'),
    ("tested", "server", "a b"),
    ("tested", "profile", "r999"),
]


@pytest.mark.parametrize(("table", "column", "value"), HOSTILE)
def test_a_row_that_somebody_wrote_never_counts(
    both: Both, table: str, column: str, value: Any
) -> None:
    both.certify()
    one = "WHERE profile='r640'" if table == "tested" else ""
    damage(both, f"UPDATE {table} SET {column}=? {one}", value)
    both.refused()
    (shown,) = certificates.certificates(both.context)["certificates"]
    assert shown["state"] not in ("valid", "passed")
    certificates.certificates(both.context, 1)
    with pytest.raises(WebfarmError):
        certificates.revoke(both.context, 1, "x")


@pytest.mark.parametrize("value", ['{"openssl": 7}', "[", '{"a b": {"to": "1", "digest": "x"}}'])
def test_what_was_meant_to_be_installed_is_not_believed_when_it_is_damaged(
    both: Both, value: str
) -> None:
    both.certify(packages="openssl")
    damage(both, "UPDATE installs SET expected=?", value)
    data = both.certify(packages="openssl")
    assert "no certification has installed it there" in data["message"]


def test_a_file_that_is_none_is_refused_and_left_as_it_is(both: Both, tmp_path: Path) -> None:
    file = path(both.context.journal_path)
    file.parent.mkdir(exist_ok=True)
    for content in (b"no database at all, but long enough to be looked at" * 100, b"x"):
        file.write_bytes(content)
        with pytest.raises(WebfarmError, match="damaged"):
            certificates.certificates(both.context)
        with pytest.raises(WebfarmError, match="damaged"):
            commands.upgrade(both.context, "site1", "farm1", RELEASE)
        assert file.read_bytes() == content
    file.unlink()
    (tmp_path / "other").write_bytes(b"")
    file.symlink_to(tmp_path / "other")
    with pytest.raises(WebfarmError, match="not a regular file"):
        certificates.certificates(both.context)
    assert (tmp_path / "other").read_bytes() == b""
    file.unlink()
    both.certify()
    damage(both, "UPDATE certificates SET state='PASSED'")
    with pytest.raises(WebfarmError, match=r"damaged \(CHECK constraint"):
        certificates.certificates(both.context)
    file.unlink()
    both.certify()
    damage(both, "PRAGMA user_version=9")
    with pytest.raises(WebfarmError, match="format 9, this version of Webfarm knows 1"):
        certificates.certificates(both.context)
