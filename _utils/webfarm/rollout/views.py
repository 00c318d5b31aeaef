"""Turn what a node sent into a view; nodes are outside: a reply of another shape is none."""

from collections.abc import Mapping
from typing import Any

from webfarm import names
from webfarm.errors import BadName
from webfarm.rollout.model import (
    STATES,
    BalancerView,
    Counters,
    FarmAtBalancer,
    Reply,
    ServerAtBalancer,
    ServerView,
)
from webfarm.rollout.waves.values import OsView

MOST = 10_000  # entries in one mapping; more is not a cluster


class _Odd(Exception):
    """The reply is not of the expected shape."""


def balancer(name: str, reply: Reply) -> BalancerView:
    """A balancer's ``haproxy_runtime.farms``."""
    if not reply.ok:
        return BalancerView(name, False, reply.error)
    try:
        value = _mapping(reply.value, "the reply")
        return BalancerView(
            name,
            True,
            farms={
                names.check(farm, "farm"): _farm(at, farm)
                for farm, at in _mapping(value.get("farms"), "farms").items()
            },
            newest=_number(value.get("newest"), "newest"),
            amnesty=_number(value.get("amnesty", 0), "amnesty"),
            pick=_shares(value.get("pick"), "pick"),
            pick_newest=_shares(value.get("pick_newest"), "pick_newest"),
            disk_agrees=value.get("disk_agrees") is True,
            old_workers=_number(value.get("old_workers", 0), "old_workers"),
        )
    except (_Odd, BadName) as odd:
        return BalancerView(name, False, f"answered haproxy_runtime.farms with nonsense: {odd}")


def server(name: str, reply: Reply, function: str = "webfarm_release.status") -> ServerView:
    """A server's ``webfarm_release.status``, or its ``webfarm_os.status``."""
    if not reply.ok:
        return ServerView(name, False, reply.error)
    try:
        value = _mapping(reply.value, "the reply")
        os = _os(value["os"]) if "os" in value else None
        release = value.get("release")
        return ServerView(
            name,
            True,
            why=_text(value.get("why") or "", "why"),
            release=None if release is None else _text(release, "release"),
            ready=value.get("ready") is True,
            php_versions=_versions(value.get("php_versions"), "php_versions"),
            webapp_versions=_versions(value.get("webapp_versions"), "webapp_versions"),
            boot_id=_text(value.get("boot_id") or "", "boot_id"),
            os=os,
        )
    except _Odd as odd:
        return ServerView(name, False, f"answered {function} with nonsense: {odd}")


def _os(value: Any) -> OsView:
    value = _mapping(value, "os")
    installed = _mapping(value.get("installed"), "installed")
    return OsView(
        installed={
            _text(name, "a package"): _text(v, "a version") for name, v in installed.items()
        },
        provider=_text(value.get("provider"), "provider"),
        snapshots=_versions(value.get("snapshots"), "snapshots"),
        restored=_text(value.get("restored") or "", "restored"),
        failed=tuple(sorted(_versions(value.get("failed"), "failed"))),
    )


def _farm(value: Any, farm: str) -> FarmAtBalancer:
    value = _mapping(value, farm)
    state = value.get("state")
    if state not in STATES:
        raise _Odd(f"state of {farm} is {state!a:.40}")
    return FarmAtBalancer(
        state=state,
        generation=_number(value.get("generation"), f"generation of {farm}"),
        release=_text(value.get("release") or "", f"release of {farm}"),
        in_flight=_number(value.get("in_flight"), f"in_flight of {farm}"),
        queued=_number(value.get("queued"), f"queued of {farm}"),
        servers={
            names.check(name, "server"): _server(at, name)
            for name, at in _mapping(value.get("servers"), f"servers of {farm}").items()
        },
        counters=_counters(value.get("counters"), farm),
    )


def _counters(value: Any, farm: str) -> Counters | None:
    if value is None:  # no worker has counted for this farm yet, or the module is an older one
        return None
    value = _mapping(value, f"counters of {farm}")
    return Counters(
        *(
            _number(value.get(what), f"{what} of {farm}")
            for what in ("requests", "errors", "response_ms")
        )
    )


def _server(value: Any, name: str) -> ServerAtBalancer:
    value = _mapping(value, name)
    return ServerAtBalancer(
        status=_text(value.get("status"), f"status of {name}"),
        admin=_text(value.get("admin_state") or "ready", f"admin_state of {name}"),
        in_flight=_number(value.get("in_flight", 0), f"in_flight of {name}"),
        check=_text(value.get("check") or "", f"check of {name}"),
        rested=value.get("admin_state") == "drain" and value.get("drained_by") == "weights",
        taken=value.get("admin_state") != "ready" and value.get("drained_by") == "rollout",
        counters=_counters(value.get("counters"), name),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > MOST:
        raise _Odd(f"{what} is {value!a:.60}, expected a mapping")
    return value


def _number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _Odd(f"{what} is {value!a:.40}, expected a number")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _Odd(f"{what} is {value!a:.40}, expected text")
    value = value[:500]
    return value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)


def _shares(value: Any, what: str) -> dict[str, int]:
    return {
        names.check(farm, "farm"): _number(share, f"{what} of {farm}")
        for farm, share in _mapping(value, what).items()
    }


def _versions(value: Any, what: str) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > MOST:
        raise _Odd(f"{what} is {value!a:.40}, expected a list")
    return frozenset(_text(version, what) for version in value)
