"""What the functions of Webfarm's execution modules do on a simulated node.

A change holds the node's lock while it runs; holds are parsed and judged by the real
:mod:`webfarm.hold`, which keeps them in files.
"""

from collections.abc import Callable, Mapping
from typing import Any

from webfarm import hold as hold_
from webfarm.errors import WebfarmError
from webfarm.rollout.cluster import CHANGES

from .nodes import Balancer, Node, Place, Refusal, Web, order
from .systems import Systems, shown

Reply = Callable[[Any], None]


class Minions(Systems):
    """Executes; ``world`` gives time, chance and the other nodes."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.tear = 0.0  # how likely a change of the maps is cut short by the node's trouble
        self.stubborn = 0.0  # how likely a member of a pool cannot be reached by who flushes it
        self.blink = 0.1  # how likely one look (never two) misses what an old worker still does

    def run(self, node: Node, function: str, given: Mapping[str, Any], reply: Reply) -> None:
        """Run ``function``; ``reply`` gets its value when it has ended, or never."""
        arguments = dict(given)
        place: Place = self.world.places[node.site]
        text = arguments.pop("hold", None)
        if text is not None:
            hold, changes, now = hold_.parse(text), function in CHANGES, self.world.now
            before = node.shown.get(hold.site, hold_.Shown())
            try:
                node.shown[hold.site] = after = hold_.shown(before, hold, not changes, now)
                if changes:
                    hold_.check_look(hold, after.looked, now)
            except WebfarmError as error:
                self.world.log(f"{node.name} refuses {function}: {error}"[:120])
                raise Refusal(str(error)) from error
            if changes:
                self.world.judge.one_hand(place, function, node.name, hold.mark[0])
        verb = function.rpartition(".")[2]
        method = getattr(self, "_os_status" if function == "webfarm_os.status" else f"_{verb}")
        method(place, node, arguments, reply)

    # -- haproxy_runtime ---------------------------------------------------------------------------

    def _set_farms(
        self, place: Place, node: Balancer, wanted: dict[str, Any], reply: Reply
    ) -> None:
        if not node.alive:
            raise Refusal("HAProxy is not running")
        for farm, number in wanted.get("generation", {}).items():
            if number < max(node.live.generation[farm], node.disk.generation[farm]):
                raise Refusal(f"the generation of {farm} would go down")
        for name in ("newest", "amnesty"):
            if wanted.get(name, 1 << 30) < getattr(node.live, name):
                raise Refusal(f"{name} would go down")
        if wanted.get("amnesty", 0) > max(node.live.newest, wanted.get("newest", 0)):
            raise Refusal("amnesty passes the newest generation")
        for farm, state in wanted.get("state", {}).items():
            up = any(node.up[web.name] and web.name not in node.rested for web in place.farms[farm])
            if state == "open" and node.disk.state[farm] != "open" and not up:
                raise Refusal(f"none of the servers of {farm} is UP")
        short = {k: v for k, v in wanted.items() if not k.startswith("pick")}
        self.world.log(f"{node.name} set_farms {short}")
        self.world.judge.will_change(place, node, wanted)
        before = dict(node.live.release)
        torn = self.world.random.random() < self.tear
        names = order(wanted)
        whole = self.world.random.randrange(len(names)) if torn else len(names)
        target = node.disk.changed(wanted)
        node.disk.take(target, names[: whole + 1])  # each map on disk first
        node.live.take(target, names[:whole])
        self.world.judge.changed(place)
        moved = [farm for farm, release in node.live.release.items() if release != before[farm]]
        for farm in moved:
            self.world.checks(place, place.farms[farm])
        if torn:
            self.world.log(f"{node.name} was cut short after {whole} maps")
            return
        for farm, state in wanted.get("state", {}).items():
            if state == "closed":
                node.rested -= {web.name for web in place.farms[farm]}
        self._farms(place, node, {}, reply)

    def _farms(self, place: Place, node: Balancer, _: dict[str, Any], reply: Reply) -> None:
        if not node.alive:
            raise Refusal("HAProxy is not running")
        node.blinked = not node.blinked and self.world.random.random() < self.blink
        maps = node.live
        reply(
            {
                "farms": {
                    farm: {
                        "state": maps.state[farm],
                        "generation": maps.generation[farm],
                        "release": maps.release[farm],
                        "in_flight": 0 if node.blinked else count.in_flight,
                        "queued": 0,
                        "counters": {
                            "requests": count.requests,
                            "errors": count.errors,
                            "response_ms": count.response_ms,
                        },
                        "servers": {web.name: dict(shown(node, web)) for web in place.farms[farm]},
                    }
                    for farm, count in node.counts.items()
                },
                "newest": maps.newest,
                "amnesty": maps.amnesty,
                "pick": maps.pick,
                "pick_newest": maps.pick_newest,
                "disk_agrees": maps.agrees(node.disk),
                "old_workers": 0,
            }
        )

    def _reconcile(self, place: Place, node: Balancer, _: dict[str, Any], reply: Reply) -> None:
        node.live = node.disk.copy()
        self.world.checks(place)
        reply({})

    # -- webfarm_release ---------------------------------------------------------------------------

    def _status(self, place: Place, node: Web, _: dict[str, Any], reply: Reply) -> None:
        pairs = [self.world.topology.releases[name] for name in sorted(node.staged)]
        reply(
            {
                "release": node.release,
                "ready": node.ready,
                "why": "" if node.ready else "php-fpm is not running",
                "php_versions": [pair.php for pair in pairs],
                "webapp_versions": [pair.webapp for pair in pairs],
                "boot_id": str(node.boots),
            }
        )

    def _stage(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        boots = node.boots

        def done() -> None:
            if node.boots == boots and node.alive:
                node.staged.add(given["release"])
                reply({"php": "installed", "webapp": "installed"})

        self.world.at(self.world.random.uniform(0.1, 2.0), done)

    def _switch(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        release = given["release"]
        if release not in node.staged:
            raise Refusal(f"{release} is not staged")
        if release in node.bad:
            raise Refusal(f"php-fpm does not start with {release}; the old one runs")
        seconds, boots = self.world.random.uniform(0.1, 1.5), node.boots
        self.world.log(f"{node.name} switches to {release}")
        node.busy_until = self.world.now + seconds
        node.ready = False
        node.release = release
        self.world.checks(place, [node])

        def done() -> None:
            if node.boots == boots and node.alive:
                node.ready = True
                self.world.checks(place, [node])
                self._status(place, node, {}, reply)

        self.world.at(seconds, done)

    def _warm(self, place: Place, node: Web, _: dict[str, Any], reply: Reply) -> None:
        if not node.ready:
            raise Refusal("the webapp does not answer")
        reply({"requests": 2})

    # -- farm_cache --------------------------------------------------------------------------------

    def _stats(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        dead = [m for m in given["servers"] if not place.cache_of(m).alive]
        if dead:
            raise Refusal(f"memcached {dead}: does not answer")
        reply({member: {"curr_items": 0} for member in given["servers"]})

    def _flush(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        flushed: dict[str, Any] = {}
        for member in given["servers"]:
            web = place.cache_of(member)
            if not web.alive or self.world.random.random() < self.stubborn:
                flushed[member] = {"error": "does not answer", "flushed": False}
                continue
            web.cache.clear()
            self.world.log(f"{member} flushed")
            flushed[member] = {"flushed": True, "items": 0}
        reply(flushed)

    def _count(self, place: Place, node: Node, _: dict[str, Any], reply: Reply) -> None:
        reply({self.world.topology.initial: len(place.database)})

    def _sync_all(self, place: Place, node: Node, _: dict[str, Any], reply: Reply) -> None:
        reply({})

    # -- others ------------------------------------------------------------------------------------

    def _find_job(self, place: Place, node: Node, given: dict[str, Any], reply: Reply) -> None:
        reply({"jid": given["jid"]} if given["jid"] in node.running else {})
