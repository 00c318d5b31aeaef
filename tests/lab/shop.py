"""The shop that the lab runs, for tests: releases, rollouts, traffic, deliberate damage."""

from __future__ import annotations

import copy
import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lab_words import ROOT, Lab
from referee.answer import Answer, decode_all
from referee.releases import order_key
from runner import PYTHON, SALT_RUN, sql

LOG = "/var/lib/referee/answers.jsonl"
PILLAR = "/srv/webfarm/pillar/releases.sls"
INCOMING = "/srv/webfarm/incoming/webapp"
STORE = "/srv/webfarm/store"
LIBRARY = "/srv/webfarm/src/_utils"
PATIENCE = 180.0
CONFIG = "/etc/haproxy/haproxy.cfg"
MAPS = "/var/lib/webfarm/maps"
SOCKET = "/run/haproxy/admin.sock"
Views = dict[str, dict[str, Any]]
BAD = {
    "errors": "http_response_code(500); exit;",
    "session-errors": "if ($_COOKIE !== []) { http_response_code(500); exit; }",
    "slow": "usleep(800_000);",
}
"""What a bad webapp does before anything else."""
DEAD_PHP = "8.2.0"


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition; fail, and say which, when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


class Shop:
    """One site of the lab and its two farms; tests go from release to release and never back."""

    def __init__(self, lab: Lab, site: str = "site1") -> None:
        self.lab = lab
        self.site = site
        pillar = yaml.safe_load((ROOT / "pillar" / "small.sls").read_text())["webfarm"]
        self.topology = pillar
        plan = pillar["sites"][site]
        self.balancers = list(plan["balancers"])
        self.farms = {name: list(farm["servers"]) for name, farm in plan["farms"].items()}
        self.memcached = {name: list(farm["memcached"]) for name, farm in plan["farms"].items()}
        self._pillar: dict[str, Any] = yaml.safe_load(lab.sh("master", f"cat {PILLAR}"))["webfarm"]
        self.policy(soak_seconds=1, canary_soak_seconds=1, gates={"min_requests": 0})
        while self.newest() not in self._pillar["releases"]:
            self._another()  # the pillar has been written anew since these tests ran

    # -- pillar and releases

    def policy(self, **changes: object) -> None:
        """Change every site's policy in the pillar."""
        sites = self._pillar.setdefault("sites", {})
        for name in self.topology["sites"]:
            sites.setdefault(name, {}).setdefault("policy", {}).update(changes)
        self._write_pillar()

    @contextmanager
    def governed(self, **changes: object) -> Iterator[None]:
        """Another policy while the block runs."""
        before = copy.deepcopy(self._pillar["sites"])
        self.policy(**changes)
        try:
            yield
        finally:
            self._pillar["sites"] = before
            self._write_pillar()

    @contextmanager
    def also(self, **keys: object) -> Iterator[None]:
        """Other top-level keys of the pillar while the block runs."""
        before = {key: self._pillar.get(key) for key in keys}
        self._pillar.update(keys)
        self._write_pillar()
        try:
            yield
        finally:
            self._pillar.update(before)
            for key in [key for key, value in before.items() if value is None]:
                del self._pillar[key]
            self._write_pillar()

    def _write_pillar(self) -> None:
        text = yaml.safe_dump({"webfarm": self._pillar}, sort_keys=False)
        self.lab.exec("master", "sh", "-c", f"cat > {PILLAR}", stdin=text)

    def release(self, farm: str) -> str:
        """What the balancers let serve."""
        return self.releases()[farm]

    def newest(self) -> str:
        """The newest release of the site's farms."""
        return max(self.releases().values(), key=order_key)

    def following(self) -> str:
        """A release after the newest: the other PHP and a webapp of its own; made when missing."""
        releases: dict[str, dict[str, str]] = self._pillar["releases"]
        newest = order_key(self.newest())
        later = [name for name in releases if order_key(name) > newest and "-" not in name]
        return min(later, key=order_key) if later else self._another()

    def _another(self) -> str:
        """One more release in the pillar, its webapp in the store."""
        releases: dict[str, dict[str, str]] = self._pillar["releases"]
        number = len(releases) + 1
        webapp = f"t{number}"
        self._publish("webapp", webapp, f"{INCOMING}/1")
        first, second = (release["php"] for release in list(releases.values())[:2])
        name = f"2026.11.{number}"
        releases[name] = {"php": first if number % 2 else second, "webapp": webapp}
        self._write_pillar()
        return name

    def _publish(self, kind: str, version: str, tree: str) -> None:
        """What `store.add` does, without a start of Salt."""
        add = "import sys; from webfarm.store import Store; Store().add(*sys.argv[1:])"
        words = ("env", f"PYTHONPATH={LIBRARY}", PYTHON, "-c", add, kind, version, tree)
        self.lab.exec("master", *words)

    def bad(self, kind: str) -> str:
        """A release that is no good, by its kind: a key of BAD, ``php`` or ``corrupt``.

        The pillar keeps it, but it is never :meth:`following`.
        """
        releases: dict[str, dict[str, str]] = self._pillar["releases"]
        number = len(releases) + 1
        webapp, tree = f"t{number}-{kind}", f"{INCOMING}/t{number}-{kind}"
        php = next(iter(releases.values()))["php"]
        self.lab.sh("master", f"rm -rf {tree}; cp -a {INCOMING}/1 {tree}")
        if kind in BAD:
            source = (ROOT / "lab/webapp/public/index.php").read_text()
            begin = "declare(strict_types=1);\n"
            assert begin in source
            broken = source.replace(begin, begin + BAD[kind] + "\n")
            index = f"cat > {tree}/public/index.php"
            self.lab.exec("master", "sh", "-c", index, stdin=broken)
        self._publish("webapp", webapp, tree)
        if kind == "corrupt":
            self.lab.sh("master", f"echo >> {STORE}/webapp/{webapp}/public/index.php")
        if kind == "php":
            trees = str(Path(INCOMING).with_name("php"))
            self.lab.sh(
                "master",
                f"rm -rf {trees}/{DEAD_PHP}; cp -a {trees}/{php} {trees}/{DEAD_PHP}; "
                f"printf '#!/bin/sh\nexit 1\n' > {trees}/{DEAD_PHP}/sbin/php-fpm",
            )
            self._publish("php", DEAD_PHP, f"{trees}/{DEAD_PHP}")
            php = DEAD_PHP
        name = f"2026.11.{number}-{kind}"
        releases[name] = {"php": php, "webapp": webapp}
        self._write_pillar()
        return name

    def pair(self, release: str) -> tuple[str, str]:
        """PHP and webapp of a release."""
        found = self._pillar["releases"][release]
        return found["php"], found["webapp"]

    # -- rollouts

    def upgrade(self, farm: str, release: str, check: bool = True) -> dict[str, Any]:
        """`salt-run upgrade.farm`; its data."""
        done = self.lab.exec(
            *("master", "salt-run", "--out=json", "--log-level=error"),
            *("upgrade.farm", self.site, farm, f"release={release}"),
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        data: dict[str, Any] = json.loads(done.stdout)
        return data | {"exit": done.returncode}

    def level(self) -> str:
        """Bring all farms to the newest release, open, whatever was left behind; returns it."""
        for run in self.unfinished():
            self.connected()
            self.lab.run("upgrade.abort", str(run), check=False)  # it may just have ended
        until(lambda: not self.unfinished(), "no run is unfinished")
        views = self.views()
        releases = self.releases(views)
        newest = max(releases.values(), key=order_key)
        # the one that is ahead first: while it is not whole, the site cannot do without another
        for farm in sorted(releases, key=lambda name: releases[name] != newest):
            there = releases[farm] == newest and self.state(farm, views) == {"open"}
            if not there or not self.up(farm, views=views):
                self.connected()
                self.upgrade(farm, newest)
        self.healthy()
        return newest

    def spare(self, farm: str) -> None:
        """Make ``farm`` one that may leave service: the others can answer all of its sessions."""
        releases = self.releases()
        lowest = min(order_key(release) for release in releases.values())
        if order_key(releases[farm]) > lowest or not self.up(*self.farms):
            self.level()

    def ahead(self, farm: str) -> tuple[str, str]:
        """Make ``farm`` the one ahead of the others; returns the old release and the new."""
        self.healthy()
        newest, releases = self.newest(), self.releases()
        others = {release for other, release in releases.items() if other != farm}
        if newest in others:
            self.level()
            self.upgrade(farm, self.following())
        self.healthy()
        [old] = {release for other, release in self.releases().items() if other != farm}
        return old, self.release(farm)

    def next_farm(self) -> str:
        """The farm that is behind; of equal ones the last."""
        releases = self.releases()
        return min(reversed(list(self.farms)), key=lambda farm: order_key(releases[farm]))

    def unfinished(self) -> list[int]:
        """The runs that have not ended, but for those of a single server: the reactor's."""
        unfinished = "state IN ('running', 'paused') AND kind <> 'server'"
        rows = sql(self.lab, f"SELECT id FROM runs WHERE {unfinished}")
        return [int(row[0]) for row in rows]

    def quarantine(self) -> dict[str, str]:
        """Server to the reason why it is left out."""
        query = f"SELECT server, why FROM quarantine WHERE site = '{self.site}'"
        return {server: why for server, why in sql(self.lab, query)}

    # -- balancers

    def view(self, balancer: str) -> dict[str, Any]:
        """What one balancer holds, asked at its own socket: maps, and servers by farm and id."""
        names = ("farm_state", "farm_generation", "farm_release", "farm_pick", "farm_pick_newest")
        commands = ["show stat", *(f"show map {MAPS}/{name}.map" for name in names)]
        ask = f"echo '{';'.join(commands)}' | socat -t5 - {SOCKET}"
        stat, *maps = self.lab.sh(balancer, ask, check=False).split("\n\n")[: len(commands)]
        held = [dict(line.split()[1:3] for line in text.splitlines() if line) for text in maps]
        view: dict[str, Any] = dict(zip(names, held, strict=False))
        view["servers"] = {
            (row["# pxname"], row["svname"]): (row["status"], int(row["uweight"] or 0))
            for row in csv.DictReader(stat.splitlines())
            if row["type"] == "2"
        }
        return view

    def views(self) -> Views:
        """Every balancer's view."""
        return {balancer: self.view(balancer) for balancer in self.balancers}

    def releases(self, views: Views | None = None) -> dict[str, str]:
        """Farm to the release that the balancers let serve; they must agree."""
        found = [view["farm_release"] for view in (views or self.views()).values()]
        assert all(one == found[0] for one in found), f"the balancers disagree: {found}"
        return dict(found[0])

    def state(self, farm: str, views: Views | None = None) -> set[str]:
        """The farm's state; one element when the balancers agree."""
        return {view["farm_state"][farm] for view in (views or self.views()).values()}

    def generation(self) -> int:
        """The site's newest generation."""
        return max(int(view["farm_generation"]["newest"]) for view in self.views().values())

    def up(self, *farms: str, views: Views | None = None) -> bool:
        """Every server of these farms is UP on every balancer, the farms are open."""
        return all(
            view["servers"].get((farm, server), ("",))[0] == "UP"
            for view in (views or self.views()).values()
            for farm in farms
            for server in self.farms[farm]
        )

    def connected(self) -> None:
        """Wait until every minion of the site answers."""
        minions = {*self.balancers, *(server for farm in self.farms.values() for server in farm)}
        until(lambda: minions <= self._answering(), f"{', '.join(sorted(minions))} answer")

    def _answering(self) -> set[str]:
        asked = (*SALT_RUN, "manage.up", "timeout=5", "gather_job_timeout=5")
        try:
            return set(json.loads(self.lab.exec("master", *asked, check=False).stdout))
        except ValueError:  # the master itself does not answer yet
            return set()

    def healthy(self) -> None:
        """Wait until every server of the site is in service."""
        until(lambda: self.up(*self.farms), "every server is UP")

    def set_farms(self, balancers: Sequence[str] | None = None, **maps: object) -> None:
        """Drive the balancers' maps by hand, as no rollout would."""
        words = [f"{name}={json.dumps(value)}" for name, value in maps.items()]
        asked = list(balancers or self.balancers)
        done = self.lab.salt(asked, "haproxy_runtime.set_farms", *words)
        wrong = {name: done.get(name) for name in asked if not isinstance(done.get(name), dict)}
        assert not wrong, f"set_farms failed: {wrong}"

    def pick(self, *farms: str) -> dict[str, int]:
        """Equal shares for these farms."""
        return dict.fromkeys(farms, 1)

    def switch(self, servers: Sequence[str], release: str) -> None:
        """Stage and switch servers by hand, whatever they serve."""
        php, webapp = self.pair(release)
        words = [json.dumps(word) for word in (release, php, webapp)]
        for function in ("webfarm_release.stage", "webfarm_release.switch"):
            done = self.lab.salt(servers, function, *words)
            wrong = {n: done.get(n) for n in servers if not isinstance(done.get(n), dict)}
            assert not wrong, f"{function} failed: {wrong}"

    def settle(self) -> None:
        """Make every cache of the site one that has been there for long: it is believed at once.

        Only while there is no traffic: nobody may still be at work who came before.
        """
        words = r"set since 0 0 1\r\n1\r\ndelete young\r\nquit\r\n"
        for farm, members in self.memcached.items():
            for member in members:
                ask = f"printf '{words}' | socat -t5 - TCP:{member}"
                said = self.lab.sh(self.farms[farm][0], ask).split()
                assert said[:1] == ["STORED"], f"{member}: {said}"

    # -- traffic

    @contextmanager
    def traffic(
        self, *options: str, rate: int = 80, sessions: int = 100, life: int = 60
    ) -> Iterator[None]:
        """Mixed traffic while the block runs; it begins when every client has a session."""
        self.lab.traffic("stop", check=False)
        mix = {"rate": rate, "sessions": sessions, "life": life}
        self.lab.traffic("start", *(f"--{name}={n}" for name, n in mix.items()), *options)
        try:
            self.answers(4 * sessions)
            yield
        finally:
            self.lab.traffic("stop")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A marked phase of the traffic."""
        self.lab.traffic("mark", f"{name}-start")
        try:
            yield
        finally:
            self.lab.traffic("mark", f"{name}-end")

    def answers(self, number: int) -> None:
        """Wait for so many more answers."""
        before = self._lines()
        until(lambda: self._lines() >= before + number, f"{number} more answers")

    def _lines(self) -> int:
        return int(self.lab.sh("client", f"wc -l < {LOG}"))

    def log(self) -> list[Answer]:
        """All answers of the traffic."""
        lines = self.lab.sh("client", f"cat {LOG}").splitlines(keepends=True)
        return [entry for entry in decode_all(lines) if isinstance(entry, Answer)]

    def served(self, server: str, release: str) -> int:
        """How many answers of the traffic a server gave on a release."""
        pattern = f'"release":"{release}".*"server":"{server}"'
        return int(self.lab.sh("client", f"grep -c '{pattern}' {LOG} || true"))

    def failed(self, since: float) -> list[Answer]:
        """The requests that ended since then without a good answer."""
        lines = self.lab.sh("client", f"grep '\"kind\":' {LOG} || true").splitlines(keepends=True)
        entries = [entry for entry in decode_all(lines) if isinstance(entry, Answer)]
        return [answer for answer in entries if answer.answered >= since]

    def judge(self, *options: str) -> dict[str, Any]:
        """The verdict's data."""
        return self.lab.verdict("--min-requests=500", *options)

    # -- highstate

    def apply(self, nodes: Sequence[str]) -> dict[str, list[str]]:
        """Apply the highstate on these nodes; node to the states that changed something.

        Each node does it by itself: a busy lab's minions may answer later than `salt` waits.
        """
        changed: dict[str, list[str]] = {}
        with ThreadPoolExecutor(3) as pool:
            for node, states in zip(nodes, pool.map(self._apply, nodes), strict=True):
                bad = {
                    name: state["comment"] for name, state in states.items() if not state["result"]
                }
                assert not bad, f"{node}: {bad}"
                names = [name for name, state in states.items() if state["changes"]]
                if names:
                    changed[node] = names
        return changed

    def _apply(self, node: str) -> dict[str, Any]:
        command = ["salt-call", "--out=json", "--log-level=error", "state.apply", "queue=True"]
        done = self.lab.exec(node, *command, check=False, timeout=300)
        try:
            states = json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            states = done.stdout
        assert isinstance(states, dict), f"{node}: {states}\n{done.stderr[-2000:]}"
        return states

    # -- damage

    @contextmanager
    def altered(self, nodes: Sequence[str], path: str, *edits: str, reload: str) -> Iterator[None]:
        """Edit a file on nodes with sed expressions, each of which must change it; put it back."""
        for node in nodes:
            self.lab.sh(node, f"cp -p {path} /root/{Path(path).name}.whole")
            for edit in edits:
                self.lab.exec(node, "cp", path, "/root/before")
                self.lab.exec(node, "sed", "-i", "-E", edit, path)
                same = self.lab.exec(node, "cmp", "-s", "/root/before", path, check=False)
                assert same.returncode, f"{edit} changes nothing in {path} on {node}"
            self.lab.sh(node, reload)
        try:
            yield
        finally:
            for node in nodes:
                self.lab.sh(node, f"cp -p /root/{Path(path).name}.whole {path}; {reload}")


def told(data: dict[str, Any]) -> str:
    """What an assertion about a verdict shows."""
    keys = ("verdict", "broken", "lacking", "promises", "phases", "moves", "farms", "traffic")
    return json.dumps({key: data[key] for key in keys}, indent=1)[:6000]
