"""A farm as people and the runner see it: plain data, written with each tick."""

from typing import Any

from webfarm.rebalance.farm import FarmLoop


def view(loop: FarmLoop, now: float) -> dict[str, Any]:
    """The farm now.

    Times are seconds since 1970. ``servers`` has for each: ``base``, ``heard``, the estimates,
    ``weight``, ``drained``, ``why``, ``held`` and ``absent`` (why the loop does not touch it),
    ``applied`` on each balancer as read back from it, and what its last report said beside load.
    """
    vector, decision = loop.vector, loop.decision
    held, absent = loop.held(now), loop.absent(now)
    servers: dict[str, Any] = {}
    for server, base in loop.base.items():
        estimate = decision.estimates.get(server) if decision else None
        report = loop.reports.get(server)
        known = loop.state.servers.get(server)
        servers[server] = {
            "base": base,
            "heard": known.at if known else None,
            "capacity": estimate.capacity if estimate else None,
            "ratio": estimate.ratio if estimate else None,
            "errors": estimate.errors if estimate else None,
            "stall": estimate.stall if estimate else None,
            "target": estimate.target if estimate else None,
            "weight": vector.weights.get(server) if vector else None,
            "drained": vector.drained.get(server, "") if vector else "",
            "why": decision.why.get(server, "") if decision else "nothing was decided yet",
            "held": held.get(server, ""),
            "absent": absent.get(server, ""),
            "applied": {
                balancer: dict(said.applied[server])
                for balancer, said in loop.answers.items()
                if server in said.applied
            },
            "kept_ready": {
                balancer: said.kept_ready[server]
                for balancer, said in loop.answers.items()
                if server in said.kept_ready
            },
            "release": report.release if report else None,
            "critical": list(report.critical) if report else [],
            "memcached": report.memcached if report else None,
            "disk": report.disk if report else None,
        }
    return {
        "at": now,
        "on": loop.law.on,
        "blind": decision.blind if decision else None,
        "epoch": vector.epoch if vector else None,
        "share": vector.share if vector else None,
        "base_share": loop.farm_weight,
        "left_alone": loop.whole(now),
        "servers": servers,
        "balancers": {
            balancer: {
                "epoch": loop.answers[balancer].epoch if balancer in loop.answers else None,
                "heard": loop.answered.get(balancer),
                "owes_since": loop.owing.get(balancer),
                "refused": loop.answers[balancer].refused if balancer in loop.answers else "",
            }
            for balancer in loop.balancers
        },
    }
