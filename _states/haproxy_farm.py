"""
Keep farms of a site balancer open, draining or closed, and keep the balancer's maps in being.

.. code-block:: yaml

    farm2:
      haproxy_farm.draining

A farm's upgrade is not a state but a rollout: ``salt-run upgrade.farm``.
"""

import webfarm

webfarm.renew(__file__)

from webfarm import names
from webfarm.errors import WebfarmError

__virtualname__ = "haproxy_farm"


def __virtual__():
    return __virtualname__


def open(name, force=False):
    """
    The farm serves, and takes new sessions by its weight.

    name
        the farm
    force
        although none of its servers is UP
    """
    return _apply(name, "open", force)


def draining(name):
    """
    The farm keeps its sessions and takes no new ones.

    name
        the farm
    """
    return _apply(name, "drain")


def closed(name):
    """
    The farm serves nothing; its sessions move to other farms of the site.

    name
        the farm
    """
    return _apply(name, "closed")


def maps(name, weights, release, siblings=()):
    """
    The farm maps exist and know each farm; what was set at run time stays.

    name
        any text
    weights
        farm -> its share of new sessions on a bare balancer
    release
        what a new farm runs
    siblings
        ``host:port`` of the site's other balancers; one without maps takes over what they have
    """
    return _ensure(
        name,
        lambda test: __salt__["haproxy_runtime.ensure_farms"](
            weights, release, siblings=siblings, test=test
        ),
    )


def site_maps(name, weights):
    """
    The site maps of a primary balancer exist and know each site; what was set at run time stays.

    name
        any text
    weights
        site -> its share of new sessions on a bare balancer
    """
    return _ensure(name, lambda test: __salt__["haproxy_runtime.ensure_sites"](weights, test=test))


def _ensure(name, change):
    ret = {"name": name, "result": True, "changes": {}, "comment": "the maps know all"}
    try:
        changes = change(__opts__["test"])
    except WebfarmError as error:
        return {**ret, "result": False, "comment": str(error)}
    if not changes:
        return ret
    if __opts__["test"]:
        return {**ret, "result": None, "changes": changes, "comment": "maps would be written"}
    return {**ret, "changes": changes, "comment": "maps were written"}


def _apply(name, state, force=False):
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        names.check(name, "farm")
        now = __salt__["haproxy_runtime.farms"]()
        if name not in now["farms"]:
            raise WebfarmError(
                f"there is no farm {ascii(name)[:80]}; HAProxy has: {', '.join(now['farms'])}"
            )
        pick = _pick(now, name, state)
        old = {"state": now["farms"][name]["state"], "share": now["pick"].get(name, 0)}
        if old["state"] == state and (old["share"] > 0) == (state == "open"):
            return {**ret, "comment": f"farm {name} is {state} already"}
        wanted = {"state": state, "share": "by weight" if state == "open" else 0}
        ret["changes"] = {name: {"old": old, "new": wanted}}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"farm {name} would be {state}"}
        after = __salt__["haproxy_runtime.set_farms"](
            state={name: state}, pick=pick, pick_newest=_newest(now, name, pick), force=force
        )
    except WebfarmError as error:
        return {**ret, "result": False, "changes": {}, "comment": str(error)}
    ret["changes"][name]["new"]["share"] = after["pick"].get(name, 0)
    return {**ret, "comment": f"farm {name} is {state} now"}


def _pick(now, name, state):
    """All open farms, each by the sum of its servers' weights."""
    opened = {farm for farm, about in now["farms"].items() if about["state"] == "open"}
    opened = opened | {name} if state == "open" else opened - {name}
    return {
        farm: sum(server["iweight"] for server in now["farms"][farm]["servers"].values())
        for farm in opened
    }


def _newest(now, name, pick):
    return {
        farm: share
        for farm, share in pick.items()
        if now["farms"][farm]["generation"] == now["newest"]
    }
