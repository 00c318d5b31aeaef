"""
Keep a server of HAProxy at a weight or in an administrative state, at run time.

.. code-block:: yaml

    site1-farm1-ws1:
      haproxy_server.weight:
        - backend: farm1
        - weight: 50

    out of service:
      haproxy_server.drained:
        - name: site1-farm1-ws2
        - backend: farm1
        - wait: 60
"""

import time

import webfarm

webfarm.renew(__file__)

from webfarm import names
from webfarm.errors import WebfarmError

__virtualname__ = "haproxy_server"


def __virtual__():
    return __virtualname__


def weight(name, backend, weight):
    """
    The server has this weight.

    name
        the server, a minion id
    backend
        its farm (at a primary: its site)
    weight
        1..256
    """
    return _apply(
        name,
        backend,
        "uweight",
        weight,
        lambda: __salt__["haproxy_runtime.set_weight"](backend, name, weight),
    )


def ready(name, backend):
    """
    The server is in service.

    name, backend
        as in ``weight``
    """
    return _state(name, backend, "ready")


def maintenance(name, backend):
    """
    The server gets no requests at all; its sessions move.

    name, backend
        as in ``weight``
    """
    return _state(name, backend, "maint")


def drained(name, backend, wait=0):
    """
    The server gets no new sessions.

    name, backend
        as in ``weight``
    wait
        seconds to wait until no request is in flight there; 0 does not wait
    """
    ret = _state(name, backend, "drain")
    if not wait or ret["result"] is not True:
        return ret
    end = time.monotonic() + wait
    while True:
        try:
            evidence = __salt__["haproxy_runtime.evidence"](backend)
        except WebfarmError as error:
            return {**ret, "result": False, "comment": str(error)}
        flying = evidence["servers"][name]["in_flight"]
        if not flying:
            return {**ret, "comment": f"{ret['comment']}; no request is in flight there"}
        if time.monotonic() >= end:
            comment = f"{backend}/{name} still has {flying} requests in flight after {wait} s"
            return {**ret, "result": False, "comment": comment}
        time.sleep(0.2)


def _state(name, backend, state):
    return _apply(
        name,
        backend,
        "admin_state",
        state,
        lambda: __salt__["haproxy_runtime.set_state"](backend, name, state),
    )


def _apply(name, backend, field, value, change):
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        names.check(name, "server")
        names.check(backend, "backend")
        table = __salt__["haproxy_runtime.servers"](backend)[backend]
        if name not in table:
            raise WebfarmError(
                f"{backend} has no server {ascii(name)[:80]}; it has: {', '.join(table)}"
            )
        old = table[name][field]
        if field == "admin_state" and table[name].get("drained_by"):
            old = f"{old} by the weights' loop"  # which would lift it again
        if old == value:
            return {**ret, "comment": f"{backend}/{name} has {field} {value} already"}
        ret["changes"] = {f"{backend}/{name}": {"old": {field: old}, "new": {field: value}}}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"{backend}/{name} would get {field} {value}"}
        change()
    except WebfarmError as error:
        return {**ret, "result": False, "changes": {}, "comment": str(error)}
    return {**ret, "comment": f"{backend}/{name} has {field} {value} now"}
