"""One balancer's HAProxy: its servers' weights and states, what is in flight, reload, state file.

After a reload the old worker answers on kept connections until they end. A change of a map goes to
it too, since it routes by the maps; servers it does not let anybody change ("Proxy is disabled").
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.files import locked, write_atomic
from webfarm.haproxy import checks, maps, parse
from webfarm.haproxy.client import BalancerDown, BalancerError, Client

OWN = "webfarm_"  # backends of this prefix are Webfarm's own, not farms or sites
FARM_MAPS = ("farm_state", "farm_generation", "farm_release", "farm_pick", "farm_pick_newest")
SITE_MAPS = ("site_state", "site_pick")


@dataclass(frozen=True)
class Settings:
    """Where things are on a balancer.

    master_socket
        None where HAProxy runs without a master (no reload, no old workers).
    deadline, lock_seconds
        Seconds for one exchange with HAProxy, and to wait for another change or reload to end.
    """

    socket: str = "/run/haproxy/admin.sock"
    master_socket: str | None = "/run/haproxy-master.sock"
    maps: str = "/var/lib/webfarm/maps"
    state_file: str = "/var/lib/webfarm/haproxy/servers.state"
    lock: str = "/run/webfarm/haproxy.lock"
    deadline: float = 5.0
    lock_seconds: float = 40.0


class Balancer:
    """The operations on one balancer; every change is made under its lock and read back."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.client = Client(self.settings.socket, self.settings.deadline)

    # -- reading ---------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Version, process ids, uptime in seconds, connections, and the backends."""
        about = parse.info(self.client.one("show info"))
        return {
            "version": about.get("Version", ""),
            "pid": int(about["Pid"]),
            "old_workers": [worker.worker for worker in self.old_workers()],
            "uptime": int(about.get("Uptime_sec", 0)),
            "connections": int(about.get("CurrConns", 0)),
            "backends": self.backends(),
            "socket": self.settings.socket,
        }

    def backends(self) -> list[str]:
        """Farms (at a site balancer) or sites (at a primary): all backends that have servers."""
        return list(dict.fromkeys(state.backend for state in self.states()))

    def servers(self, backend: str | None = None) -> dict[str, dict[str, Any]]:
        """Backend -> server -> address, state (ready, drain, maint), weights."""
        if backend is not None:
            self.known_backend(backend)
        table: dict[str, dict[str, Any]] = {}
        for state in self.states():
            if backend in (None, state.backend):
                table.setdefault(state.backend, {})[state.server] = {
                    "address": state.address,
                    "admin_state": state.admin,
                    "uweight": state.uweight,
                    "iweight": state.iweight,
                }
        for row in self.stat(self.client):
            server = table.get(row["pxname"], {}).get(row["svname"])
            if server is not None:
                server["status"] = row["status"].split()[0]
                server["weight"] = parse.number(row, "weight")
                server["in_flight"] = parse.number(row, "scur")
                server["queued"] = parse.number(row, "qcur")
                server["check"] = parse.check_result(row)
                server["counters"] = parse.server_counters(row)
        return table

    def get_map(self, name: str) -> dict[str, str]:
        """A map's entries as the current worker uses them, by its name: ``farm_state`` …"""
        return dict(maps.show(self.client, self.map_path(name)))

    def evidence(self, backend: str) -> dict[str, Any]:
        """What is in flight in a farm or site, over all workers, the old ones after a reload
        included.

        ``in_flight`` counts requests that were given to a server or are on the way there,
        ``queued`` those that wait. ``counters`` are the current worker's own, see
        :func:`parse.counters`: a reload begins them anew.
        """
        self.known_backend(backend)
        return self.flights()[backend]

    def flights(self) -> dict[str, dict[str, Any]]:
        """:meth:`evidence` of every backend at once."""
        old = self.old_workers()
        flights: dict[str, dict[str, Any]] = {}
        for position, worker in enumerate([self.client, *old]):
            try:
                rows = self.stat(worker)
            except BalancerError:
                if position and worker.worker not in self._old_pids():
                    continue  # it finished its last request while it was asked
                raise
            for row in rows:
                name = row["pxname"]
                if name.startswith(OWN) or row["type"] not in ("1", "2"):
                    continue
                flight = flights.setdefault(
                    name,
                    {
                        "farm": name,
                        "in_flight": 0,
                        "queued": 0,
                        "servers": {},
                        "workers": 1 + len(old),
                    },
                )
                queued = parse.number(row, "qcur")
                flight["queued"] += queued
                if row["type"] == "1":  # the backend; its figure includes all queues
                    flight["in_flight"] += parse.number(row, "scur") - queued
                    if position == 0:
                        flight["counters"] = parse.counters(row)
                else:
                    flight["in_flight"] -= queued
                    server = flight["servers"].setdefault(row["svname"], {"in_flight": 0})
                    server["in_flight"] += parse.number(row, "scur")
                    if position == 0:
                        server["status"] = row["status"].split()[0]
        for flight in flights.values():
            flight["in_flight"] = max(0, flight["in_flight"])
        return flights

    # -- changing --------------------------------------------------------------------------------

    def set_weight(self, backend: str, server: str, weight: int) -> dict[str, Any]:
        """Set one weight; see :meth:`set_weights`."""
        return self.set_weights({backend: {server: weight}})

    def set_weights(self, weights: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Set weights of 1..256, in one batch; returns backend -> server -> {"old", "new"} of what
        changed.

        All are checked before the first is sent. A weight of 0 is refused: it is a drain that
        ``ready`` does not lift.
        """
        wanted: dict[tuple[str, str], int] = {}
        if not isinstance(weights, Mapping):
            raise checks.not_a_mapping("backend -> server -> weight", weights)
        for backend, servers in weights.items():
            names.check(backend, "backend")
            if not isinstance(servers, Mapping):
                raise checks.not_a_mapping(f"server -> weight for {backend}", servers)
            for server, weight in servers.items():
                names.check(server, "server")
                wanted[backend, server] = checks.weight(f"{backend}/{server}", weight)
        with self.lock("set weights"):
            before = {(s.backend, s.server): s.uweight for s in self.states()}
            self.known_servers(wanted, before)
            self.tell(
                [
                    f"set server {backend}/{server} weight {weight}"
                    for (backend, server), weight in wanted.items()
                    if before[backend, server] != weight
                ]
            )
            after = {(s.backend, s.server): s.uweight for s in self.save_state()}
            checks.verify("weight", wanted, after, self.settings.socket)
            return checks.changes(wanted, before)

    def set_state(self, backend: str, server: str, state: str) -> dict[str, Any]:
        """Make a server ``ready``, ``drain`` (sticky sessions stay) or ``maint``; returns {"old",
        "new"}, or {}.
        """
        checks.server_state(backend, server, state)
        with self.lock("set a server's state"):
            return self.put_state(backend, server, state)

    def reload(self, run: Callable[[], None]) -> dict[str, Any]:
        """Reload HAProxy by ``run`` (``systemctl reload``, whose helper takes the lock) and say
        what came of it.
        """
        before = self.info()["pid"]
        run()
        end = time.monotonic() + self.settings.lock_seconds
        while time.monotonic() < end:
            with contextlib.suppress(BalancerError):
                about = self.info()
                if about["pid"] != before:
                    return {"old_pid": before, **about}
            time.sleep(0.05)
        raise BalancerError(
            f"{self.settings.socket}: after the reload the old worker {before} still answers; "
            "see `journalctl -u haproxy`, the running configuration is the old one"
        )

    def reassert_state(self) -> bool:
        """Write the state file when it does not say what HAProxy does; says whether it did."""
        path = Path(self.settings.state_file)
        saved = path.read_text("ascii", "replace") if path.exists() else ""
        live = self.client.one("show servers state")
        try:
            same = _essence(saved) == _essence(live)
        except BalancerError:
            same = False
        if not same:
            self.save_state()
        return not same

    # -- for the modules beside this one ---------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, what: str) -> Iterator[None]:
        """Hold the balancer's lock: one change or reload at a time."""
        path = Path(self.settings.lock)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, self.settings.lock_seconds, what):
            yield

    def map_path(self, name: str) -> Path:
        """The file of the map ``name``; it is also its name in HAProxy."""
        names.check(name, "map")
        if name not in FARM_MAPS + SITE_MAPS:
            raise WebfarmError(
                f"there is no map {name}; the maps are: {', '.join(FARM_MAPS + SITE_MAPS)}"
            )
        return Path(self.settings.maps) / f"{name}.map"

    def known_backend(self, name: str) -> str:
        """``name`` when HAProxy has such a backend."""
        names.check(name, "backend")
        known = self.backends()
        if name not in known:
            raise WebfarmError(
                f"{self.settings.socket}: there is no backend {name}; HAProxy has: "
                f"{', '.join(known)}"
            )
        return name

    def states(self) -> list[parse.ServerState]:
        """Each server's weights and administrative state."""
        states = parse.servers_state(self.client.one("show servers state"))
        return [state for state in states if not state.backend.startswith(OWN)]

    def pid(self) -> int:
        """The process id of the worker that answers."""
        return int(parse.info(self.client.one("show info"))["Pid"])

    def stat(self, client: Client) -> list[dict[str, str]]:
        """``show stat`` of servers and backends, from one worker."""
        return parse.stat(client.one("show stat -1 6 -1"))

    def old_workers(self) -> list[Client]:
        """A client for each worker that a reload left behind."""
        master = self.settings.master_socket
        if master is None:
            return []
        return [Client(master, self.settings.deadline, pid) for pid in self._old_pids()]

    def each_old_worker(self, change: Callable[[Client], object]) -> None:
        """Apply ``change`` to the old workers; one that ends meanwhile needs it no more."""
        for worker in self.old_workers():
            try:
                change(worker)
            except BalancerError:
                if worker.worker in self._old_pids():
                    raise

    def tell(self, commands: list[str]) -> None:
        """Send commands that answer nothing on success."""
        for command, said in zip(commands, self.client.ask(commands), strict=True):
            if said:
                raise BalancerError(
                    f"{self.client}: `{command}`: HAProxy said {ascii(said)[:200]}; "
                    "commands before it took effect"
                )

    def put_state(self, backend: str, server: str, state: str) -> dict[str, Any]:
        """:meth:`set_state` for who has the lock and has checked the words."""
        wanted = {(backend, server): state}
        before = {(s.backend, s.server): s.admin for s in self.states()}
        self.known_servers(wanted, before)
        if before[backend, server] != state:
            self.tell([f"set server {backend}/{server} state {state}"])
        after = {(s.backend, s.server): s.admin for s in self.save_state()}
        checks.verify("state", wanted, after, self.settings.socket)
        return checks.changes(wanted, before).get(backend, {}).get(server, {})

    def save_state(self) -> list[parse.ServerState]:
        """Read the servers' states and keep them on disk for HAProxy's next start."""
        text = self.client.one("show servers state")
        states = parse.servers_state(text)
        path = Path(self.settings.state_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, parse.as_running(text))
        return states

    def running(self) -> bool:
        """Whether HAProxy answers at all."""
        try:
            self.client.one("show info")
        except BalancerDown:
            return False
        return True

    def _old_pids(self) -> tuple[int, ...]:
        master = self.settings.master_socket
        if master is None:
            return ()
        client = Client(master, self.settings.deadline)
        end = time.monotonic() + self.settings.deadline
        while True:
            try:
                return parse.processes(client.one("show proc")).old_workers
            except BalancerDown:  # for a moment in each start and reload, while workers answer
                if time.monotonic() >= end:
                    raise
            time.sleep(0.05)

    def known_servers(
        self, wanted: Mapping[tuple[str, str], object], seen: Mapping[Any, object]
    ) -> None:
        """Raise for a server that HAProxy does not have."""
        unknown = [
            f"{backend}/{server}" for backend, server in wanted if (backend, server) not in seen
        ]
        if unknown:
            raise WebfarmError(
                f"{self.settings.socket}: HAProxy has no server {', '.join(unknown[:5])}; nothing "
                "was changed. "
                "haproxy_runtime.servers lists what it has"
            )


def _essence(text: str) -> set[tuple[str, str, int, str]]:
    """What the state file must keep: weights and administrative states."""
    return {(s.backend, s.server, s.uweight, s.admin) for s in parse.servers_state(text)}
