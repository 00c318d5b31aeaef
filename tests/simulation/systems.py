"""What a simulated web server is beneath its release: packages, snapshots, reboots; and its judge.

Every server has the package ``tool`` in version 1.0 and can have 2.0, which needs a reboot.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .nodes import Balancer, Place, Refusal, Web
from .sessions import Broken

OLD, NEW, DIGEST = "1.0", "2.0", "sha256:" + "d" * 64
LATELY = 60.0

Reply = Callable[[Any], None]


class Systems:
    """The functions of webfarm_os, webfarm_packages, webfarm_snapshot and set_servers."""

    world: Any
    _status: Callable[..., None]

    # -- haproxy_runtime ---------------------------------------------------------------------------

    def _set_servers(
        self, place: Place, node: Balancer, given: dict[str, Any], reply: Reply
    ) -> None:
        if not node.alive:
            raise Refusal("HAProxy is not running")
        self.world.log(f"{node.name} set_servers {given['states']}")
        for farm, servers in given["states"].items():
            for name, state in servers.items():
                web = place.web[name]
                if state == "ready":
                    self._opens(place, web)
                    node.admin.pop(name, None)
                    continue
                leaves = name not in node.admin
                node.admin[name] = state
                if leaves:
                    self._leaves(place, node, farm, given.get("force") is True)
                if state == "drain":  # believed in until its checks say otherwise
                    node.up[name] = True
            self.world.checks(place, [place.web[name] for name in servers])
        reply({"changed": {}, "left_alone": {}})

    def _leaves(self, place: Place, node: Balancer, farm: str, alone: bool) -> None:
        """S4: one server of a farm at a time, and enough of it and of the site stay."""
        taken = {
            web.name
            for web in place.farms[farm]
            if any(web.name in balancer.admin for balancer in place.balancers.values())
        }
        if len(taken) > 1:
            raise Broken(f"S4: {sorted(taken)} of {farm} are out at once")
        counts = self.world.judge.counts
        policy = place.plan.policy
        whole = place.farms[farm]
        stay = sum(w.weight for w in whole if w.name not in taken and counts(w))
        if not alone and stay / sum(w.weight for w in whole) < policy.min_farm_capacity:
            raise Broken(f"S4: {farm} keeps {stay} without {sorted(taken)}")
        out = {name for balancer in place.balancers.values() for name in balancer.admin}
        serving = sum(w.weight for w in place.web.values() if w.name not in out and counts(w))
        if serving / sum(w.weight for w in place.web.values()) < policy.min_capacity:
            raise Broken(f"S4: {place.name} keeps {serving} without {sorted(out)}")

    def _opens(self, place: Place, web: Web) -> None:
        """S7: who is put back runs what it should, since it did reboot."""
        if web.alive and web.installed == NEW and web.installed_in == web.boots:
            raise Broken(f"S7: {web.name} is put back without the reboot that its packages need")
        lately = self.world.now - max(web.died, web.back) < LATELY
        if not (web.alive and web.ready) and not lately:
            raise Broken(f"S7: {web.name} is put back and is not in order")

    # -- webfarm_os --------------------------------------------------------------------------------

    def _os_status(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        os = {
            "installed": {"tool": node.installed} if "tool" in given.get("packages", ()) else {},
            "failed": [] if node.ready else ["webfarm-php-fpm"],
            "provider": self.world.provider,
            "snapshots": list(node.snapshots),
            "restored": node.restored or None,
        }
        self._status(place, node, {}, lambda value: reply({**value, "os": os}))

    def _reboot(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        if given.get("boot_id") not in (None, str(node.boots)):
            reply({"boot_id": str(node.boots), "reboots": False})
            return
        self._disturbs(place, node, "reboots")
        boots = node.boots
        reply({"boot_id": str(boots), "reboots": True})
        self.world.at(2.0, lambda: self._goes_down(place, node, boots))

    def _goes_down(self, place: Place, node: Web, boots: int) -> None:
        if node.boots != boots or not node.alive:
            return
        world = self.world
        world.log(f"{node.name} reboots")
        node.ordered.add(node.boots)
        node.alive, node.maintained = False, True
        node.boots += 1
        node.running.clear()
        node.busy_until = 0.0
        node.cache.clear()
        node.shown = {site: was._replace(looked=None) for site, was in node.shown.items()}
        world.checks(place, [node])
        if node.never:
            world.log(f"{node.name} does not come back")
            return
        world.at(world.random.uniform(5.0, 40.0), lambda: self.comes_up(place, node))

    def comes_up(self, place: Place, node: Web) -> None:
        """Its next boot, from the root that waits for it."""
        if node.alive:
            return
        self.world.log(f"{node.name} is up again")
        node.alive = True
        boots(node, self.world.broken_packages)
        self.world.checks(place, [node])

    # -- webfarm_packages --------------------------------------------------------------------------

    def _pretend(self, place: Place, node: Web, _: dict[str, Any], reply: Reply) -> None:
        new = {"from": OLD, "to": NEW, "digest": DIGEST, "size": 1}
        changes = {"tool": new} if node.installed == OLD else {}
        reply({"changes": changes, "disruptive": {}, "affects": {}})

    def _install(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        world, boots = self.world, node.boots
        if given["expected"] != {"tool": {"to": NEW, "digest": DIGEST}}:
            raise Refusal(f"that was not certified: {given['expected']}")
        if node.stubborn:
            raise Refusal("tool: the digest differs; nothing was changed")
        self._disturbs(place, node, "installs")
        if world.provider != "none" and OLD not in node.snapshots.values():
            raise Broken(f"S6: {node.name} installs without a way back")
        tried = [w.name for w in place.farms[node.farm] if w.found_bad and w is not node]
        if tried:
            raise Broken(f"S2: {node.name} gets packages that failed on {tried}")
        seconds = world.random.uniform(1.0, 15.0)
        node.busy_until = world.now + seconds

        def done() -> None:
            if node.boots == boots and node.alive:
                node.installed, node.installed_in = NEW, boots
                node.found_bad = node.found_bad or world.broken_packages
                world.log(f"{node.name} installed {NEW}")
                reply({"changed": {"tool": {}}, "reboot": True, "affects": {}, "waiting": []})

        world.at(seconds, done)

    def _disturbs(self, place: Place, node: Web, what: str) -> None:
        """S2: nobody is served by a machine that is worked on."""
        for balancer in place.balancers.values():
            if node.name not in balancer.admin:
                raise Broken(f"S2: {node.name} {what} while {balancer.name} sends requests there")
        flying = {b.name: b.flights.get(node.name, 0) for b in place.balancers.values()}
        if any(flying.values()) and place.plan.policy.on_deadline != "force":
            raise Broken(f"S2: {node.name} {what} under requests in flight: {flying}")

    # -- webfarm_snapshot --------------------------------------------------------------------------

    def _space(self, place: Place, node: Web, _: dict[str, Any], reply: Reply) -> None:
        reply({"provider": self.world.provider, "ok": True, "free_percent": 50.0, "why": ""})

    def _take(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        node.snapshots.setdefault(given["name"], node.installed)
        self.world.log(f"{node.name} snapshot {given['name']} of {node.installed}")
        reply({"name": given["name"], "taken": True})

    def _restore(self, place: Place, node: Web, given: dict[str, Any], reply: Reply) -> None:
        if given["name"] not in node.snapshots:
            raise Refusal(f"there is no snapshot {given['name']}")
        node.next_root = given["name"]
        self.world.log(f"{node.name} restores {given['name']}")
        reply({"name": given["name"], "reboot": True})


def boots(node: Web, broken: bool) -> None:
    """It starts from the root that waits for it, if one does."""
    node.maintained = False
    if node.next_root:
        node.installed, node.restored = node.snapshots[node.next_root], node.next_root
        node.next_root = ""
    node.ready = not (node.installed == NEW and broken)


def shown(node: Balancer, web: Web) -> Mapping[str, Any]:
    """A server as ``haproxy_runtime.farms`` shows it."""
    admin = node.admin.get(web.name) or ("drain" if web.name in node.rested else "ready")
    owner = "rollout" if web.name in node.admin else "weights" if web.name in node.rested else None
    count = node.served.get(web.name)
    return {
        "status": node.status(web.name),
        "admin_state": admin,
        "drained_by": owner,
        "in_flight": 0 if node.blinked else node.flights.get(web.name, 0),
        "counters": {
            "requests": count.requests if count else 0,
            "errors": count.errors if count else 0,
            "response_ms": count.response_ms if count else 0,
        },
    }
