"""Take single servers out of service for a rollout, and put back only what a rollout took.

HAProxy knows that a server is in drain or maint, not whose doing that is. What a rollout took is
written down beside the servers' states before it is done, so that it survives HAProxy and this
process, and so that neither an operator's drain is lifted nor one of a rollout forgotten. The
weights' loop leaves all of it alone (promise W3): to the loop it is a drain by hand.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.files import write_atomic
from webfarm.haproxy import checks, kept
from webfarm.haproxy.runtime import Balancer

FILE = "members.json"
ROLLOUT = "rollout"  # what `drained_by` says of what a rollout took
MOST = 10_000

Ours = dict[str, set[str]]  # farm -> servers


def set_servers(
    balancer: Balancer, states: Mapping[str, Mapping[str, str]], force: bool = False
) -> dict[str, Any]:
    """Make servers ``drain``, ``maint`` or ``ready`` in the name of a rollout, all or none.

    Returns ``{"changed": farm -> server -> {"old", "new"}, "left_alone": farm/server -> why}``: a
    server that somebody else holds is not made ready.

    states
        Farm -> server -> state.
    force
        Also when no other server of the farm would be left in service.

    Raises :class:`WebfarmError` before anything is changed: for a server that an operator holds,
    and for the last one of a farm.
    """
    wanted = _checked(states)
    with balancer.lock("take servers out of service"):
        seen = {(s.backend, s.server): s.admin for s in balancer.states()}
        balancer.known_servers(wanted, seen)
        ours = load(balancer.settings.state_file)
        for farm, them in ours.items():  # what is ready by now is nobody's
            ours[farm] = {name for name in them if seen.get((farm, name)) in ("drain", "maint")}
        weights = kept.glance(balancer.settings.state_file)
        left = {
            f"{farm}/{name}": f"{seen[farm, name]} by another hand"
            for (farm, name), state in wanted.items()
            if seen[farm, name] != "ready"
            and name not in ours.get(farm, set())
            and not (state != "ready" and weights.owns(farm, name))
        }
        taken = {key: state for key, state in wanted.items() if "/".join(key) not in left}
        held = [key for key in left if wanted[_split(key)] != "ready"]
        if held:
            raise WebfarmError(
                f"{balancer.settings.socket}: {', '.join(held)} is held out of service by an "
                "operator; nothing was changed. haproxy_runtime.set_state FARM SERVER ready gives "
                "it back"
            )
        if not force:
            _refuse_last(balancer, taken, seen)
        for (farm, name), state in taken.items():
            if state != "ready":
                ours.setdefault(farm, set()).add(name)
                if farm in weights.farms:
                    weights.farms[farm].ours.pop(name, None)
        _save(balancer.settings.state_file, ours)
        weights.save()
        balancer.tell(
            [
                f"set server {farm}/{name} state {state}"
                for (farm, name), state in taken.items()
                if seen[farm, name] != state
            ]
        )
        after = {(s.backend, s.server): s.admin for s in balancer.save_state()}
        checks.verify("state", taken, after, balancer.settings.socket)
        for (farm, name), state in taken.items():
            if state == "ready":
                ours.get(farm, set()).discard(name)
        _save(balancer.settings.state_file, ours)
        return {"changed": checks.changes(taken, seen), "left_alone": left}


def forget(balancer: Balancer, farm: str, server: str) -> None:
    """A hand has the server from now on; under the balancer's lock."""
    ours = load(balancer.settings.state_file)
    if server in ours.get(farm, set()):
        ours[farm].discard(server)
        _save(balancer.settings.state_file, ours)


def load(state_file: str) -> Ours:
    """What rollouts took; raises :class:`WebfarmError` when the file cannot be read."""
    path = Path(state_file).with_name(FILE)
    try:
        data = json.loads(path.read_text("utf-8"))
        return {str(farm): {str(name) for name in them} for farm, them in data["ours"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise WebfarmError(
            f"{path} cannot be read ({ascii(str(error))[:120]}): nobody knows which servers a "
            "rollout took out of service. Look at them with haproxy_runtime.servers, delete the "
            "file, and make ready what nobody else holds. Nothing was changed"
        ) from error


def glance(state_file: str) -> Ours:
    """The same for who can do without it: when it is damaged, a rollout took nothing."""
    try:
        return load(state_file)
    except WebfarmError:
        return {}


def _checked(states: object) -> dict[tuple[str, str], str]:
    if not isinstance(states, Mapping) or not states:
        raise checks.not_a_mapping("farm -> server -> state", states)
    wanted: dict[tuple[str, str], str] = {}
    for farm, servers in states.items():
        names.check(farm, "farm")
        if not isinstance(servers, Mapping) or len(servers) > MOST:
            raise checks.not_a_mapping(f"server -> state for {farm}", servers)
        for server, state in servers.items():
            checks.server_state(farm, server, state)
            wanted[farm, server] = state
    return wanted


def _refuse_last(
    balancer: Balancer,
    wanted: Mapping[tuple[str, str], str],
    seen: Mapping[tuple[str, str], str],
) -> None:
    """Raise when a farm would be left without a server that is UP, by this change."""
    table = balancer.servers()
    for farm in {farm for farm, _ in wanted}:
        leaving = {n for (f, n), s in wanted.items() if f == farm and s != "ready"}
        if not any(seen[farm, name] == "ready" for name in leaving):
            continue
        stay = [
            name
            for name, one in table[farm].items()
            if name not in leaving and one["admin_state"] == "ready" and one["status"] == "UP"
        ]
        if not stay:
            raise WebfarmError(
                f"{balancer.settings.socket}: without {', '.join(sorted(leaving))} no server of "
                f"{farm} would be UP; nothing was changed"
            )


def _save(state_file: str, ours: Ours) -> None:
    path = Path(state_file).with_name(FILE)
    text = json.dumps({"v": 1, "ours": {f: sorted(s) for f, s in sorted(ours.items()) if s}})
    if path.exists() and path.read_text("utf-8").strip() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text + "\n")


def _split(key: str) -> tuple[str, str]:
    farm, _, name = key.partition("/")
    return farm, name
