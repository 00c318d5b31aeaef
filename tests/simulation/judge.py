"""What must hold whenever something changes: capacity, one hand, generations, no orphan."""

from collections.abc import Mapping
from typing import Any

from .nodes import Balancer, Place, Web
from .sessions import Broken, order_key

LATELY = 60.0  # a fault this young is one that no rollout could have known


class Judge:
    """Raises :class:`Broken`, with the promise's name first."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.may_reset = False  # an operator allowed that sessions are reset
        self.changed_by: dict[str, int] = {}  # site -> the highest token that changed something

    def resets_are_allowed(self) -> None:
        """An operator said reset_sessions=True."""
        self.may_reset = True

    # -- a fault excuses --------------------------------------------------------------------------

    def troubled(self, place: Place) -> bool:
        """A node of the site is down, came back a moment ago, or somebody's hand was in it."""
        now = self.world.now
        return any(
            (not node.alive and not getattr(node, "maintained", False)) or now - node.back < 2.0
            for node in (*place.web.values(), *place.balancers.values())
        ) or any(now - balancer.touched < LATELY for balancer in place.balancers.values())

    def counts(self, web: Web) -> bool:
        """It is up, or died so lately that no rollout could have known."""
        return web.alive or self.world.now - web.died < LATELY

    # -- after each change ------------------------------------------------------------------------

    def one_hand(self, place: Place, what: str, name: str, token: int) -> None:
        """S5: nobody changes anything after a later holder of the site changed something."""
        latest = self.changed_by.get(place.name, token)
        if token < latest:
            raise Broken(f"S5: {what} on {name} with token {token}, but {latest} holds the site")
        self.changed_by[place.name] = token

    def will_change(self, place: Place, balancer: Balancer, wanted: Mapping[str, Any]) -> None:
        """S4, before a rollout takes a farm out of service or puts it back."""
        for farm, state in wanted.get("state", {}).items():
            before = balancer.live.state[farm]
            if state in ("drain", "closed") and before == "open":
                self._capacity(place, balancer, farm, state)
            if state == "open" and before != "open":
                self._whole(place, balancer, farm)

    def _capacity(self, place: Place, balancer: Balancer, farm: str, state: str) -> None:
        if balancer.touched > self.world.now - LATELY:
            return
        serving = sum(
            web.weight
            for other, webs in place.farms.items()
            if other != farm and balancer.live.state[other] == "open"
            for web in webs
            if self.counts(web) and web.release == balancer.live.release[other]
        )
        whole = sum(web.weight for web in place.web.values())
        if serving / whole < place.plan.policy.min_capacity:
            raise Broken(f"S4: {farm} goes to {state}, {serving} of {whole} are left")

    def _whole(self, place: Place, balancer: Balancer, farm: str) -> None:
        webs = place.farms[farm]
        lost = [web.name for web in webs if not balancer.up[web.name]]
        lately = any(self.world.now - max(w.died, w.back) < LATELY for w in webs)
        if len(lost) > max(1, len(webs) // 4) and not lately:
            raise Broken(f"S4: {farm} opens without {lost}")

    def changed(self, place: Place) -> None:
        """S1, the invariant behind it: a generation stands for one release, and they rise."""
        releases: dict[int, str] = {}
        for balancer in place.balancers.values():
            maps = balancer.live
            for farm, state in maps.state.items():
                if state == "closed":
                    continue
                release = releases.setdefault(maps.generation[farm], maps.release[farm])
                if release != maps.release[farm]:
                    raise Broken(
                        f"S1: generation {maps.generation[farm]} is {release} and, for {farm} at "
                        f"{balancer.name}, {maps.release[farm]}"
                    )
        amnesty = min(b.live.amnesty for b in place.balancers.values()) if self.may_reset else 0
        strict = [number for number in sorted(releases) if number > amnesty]
        rising = [order_key(releases[number]) for number in strict]
        if rising != sorted(rising):
            raise Broken(f"S1: a higher generation has an older release: {releases}")
        flawed = {
            farm
            for balancer in place.balancers.values()
            for farm, state in balancer.live.state.items()
            if state == "open" and balancer.live.release[farm] in self.world.flaws
        }
        if len(flawed) > 1:
            raise Broken(f"S2: {sorted(flawed)} opened with a release that fails")

    # -- when a run has ended ---------------------------------------------------------------------

    def at_rest(self, place: Place, farms: list[str], named: Mapping[str, str]) -> None:
        """S7, S8: each farm is open everywhere, each server serves it or is named."""
        for farm in farms:
            states = {b.live.state[farm] for b in place.balancers.values()}
            fences = {b.live.release[farm] for b in place.balancers.values()}
            if states != {"open"} or len(fences) != 1:
                raise Broken(f"S8: the run has ended, but {farm} is {states} on {fences}")
            for web in place.farms[farm]:
                served = web.alive and web.ready and web.release in fences
                if not served and web.alive and web.name not in named:
                    raise Broken(
                        f"S8: {web.name} is on {web.release}, {farm} on {fences}, nobody says so"
                    )
                wrong = web.release not in fences
                if wrong and any(b.up[web.name] for b in place.balancers.values()):
                    raise Broken(f"S7: {web.name} is on {web.release} and UP in {farm}")
