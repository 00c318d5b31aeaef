"""What is particular to packages that restart nothing: refused when they would disturb."""

from collections.abc import Mapping
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rollout.context import Context
from webfarm.rollout.model import Reply, listed
from webfarm.topology import Site

DELETED_SECONDS = 60.0


def refuse_disruptive(asked: Mapping[str, Reply]) -> None:
    """Raise when a package must not be changed in service: which, why, on which servers."""
    found: dict[str, list[str]] = {}
    for server, reply in asked.items():
        value = reply.value if reply.ok and isinstance(reply.value, Mapping) else {}
        disruptive = value.get("disruptive")
        for name, why in (disruptive if isinstance(disruptive, Mapping) else {}).items():
            found.setdefault(f"{name!s:.80}: {why!s:.200}", []).append(server)
    if found:
        shown = "\n".join(f"  {what} (on {listed(them)})" for what, them in sorted(found.items()))
        raise WebfarmError(
            f"these packages must not be changed in service:\n{shown}\nNothing was changed; "
            "kind=disruptive takes one server of each farm out of service at a time"
        )


def deleted(context: Context, scope: Mapping[str, Site]) -> dict[str, Any]:
    """Which processes of each server still run from files that were replaced."""
    found: dict[str, Any] = {}
    for name, site in scope.items():
        servers = [server for farm in site.farms.values() for server in farm.servers]
        asked = context.cluster.call(name, "webfarm_packages.deleted", servers, {}, DELETED_SECONDS)
        for server, reply in asked.items():
            if not reply.ok:
                found[server] = f"does not say: {reply.error}"
            elif reply.value:
                found[server] = reply.value
    return found
