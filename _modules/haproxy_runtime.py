"""
Change and read this balancer's HAProxy while it runs.

Weights, server states, farms, sites: each change is made under the balancer's lock, kept on disk
for HAProxy's next start, made in every worker (also in those that finish after a reload), and read
back.

:depends: HAProxy 2.6 or later on this minion, configured by the state ``haproxy.site`` or
``haproxy.primary`` :configuration: Paths other than the default ones go into the minion's
configuration:

.. code-block:: yaml

    webfarm:
      haproxy:
        socket: /run/haproxy/admin.sock
        master_socket: /run/haproxy-master.sock
        maps: /var/lib/webfarm/maps
        state_file: /var/lib/webfarm/haproxy/servers.state
        lock: /run/webfarm/haproxy.lock
    webfarm_holds: /var/lib/webfarm/holds
"""

import dataclasses
import time
from pathlib import Path

import webfarm

webfarm.renew(__file__)

from webfarm import hold as _hold
from webfarm import signed as _signed
from webfarm.errors import WebfarmError
from webfarm.haproxy import farms as _farms
from webfarm.haproxy import members as _members
from webfarm.haproxy import sites as _sites
from webfarm.haproxy import vector as _vector
from webfarm.haproxy import weights as _weights
from webfarm.haproxy.runtime import Balancer, Settings
from webfarm.rebalance import confirm as _confirm

__virtualname__ = "haproxy_runtime"


def __virtual__():
    return __virtualname__


def _balancer():
    known = {field.name for field in dataclasses.fields(Settings)}
    given = __salt__["config.get"]("webfarm:haproxy", default={}) or {}
    unknown = sorted(set(given) - known)
    if unknown:
        raise WebfarmError(
            f"webfarm:haproxy: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return Balancer(Settings(**given))


def info():
    """
    Version, process ids, uptime, connections and backends of this balancer's HAProxy.

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.info
    """
    return _balancer().info()


def servers(backend=None):
    """
    The servers: backend -> server -> address, status, admin_state (``ready``, ``drain``,
    ``maint``), weight (in force, during slowstart less than uweight), uweight, iweight (as
    configured), in_flight, queued, check, counters, drained_by (``weights`` when the weights' loop
    did it, ``rollout`` when a rollout did).

    backend
        A farm (at a site balancer) or a site (at a primary); all by default.

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.servers farm1
    """
    balancer = _balancer()
    table = balancer.servers(backend)
    _farms.mark(balancer, table)
    return table


def set_weight(backend, server, weight):
    """
    Set one server's weight, 1..256. Returns backend -> server -> {"old", "new"}, or nothing when it
    had that weight.

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.set_weight farm1 site1-farm1-ws1 50
    """
    return _balancer().set_weight(backend, server, weight)


def set_weights(weights):
    """
    Set many weights at once, after all of them have been checked.

    weights
        backend -> server -> weight of 1..256

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.set_weights '{farm1: {site1-farm1-ws1: 50, site1-farm1-ws2:
        100}}'
    """
    return _balancer().set_weights(weights)


def set_state(backend, server, state):
    """
    Set one server's administrative state. Returns {"old", "new"}, or nothing when it had that
    state. The weights' loop leaves it as it is from then on.

    state
        ``ready``; ``drain``: no new sessions, sticky ones stay; ``maint``: no requests at all

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.set_state farm1 site1-farm1-ws1 drain
    """
    return _weights.set_state(_balancer(), backend, server, state)


def apply_weights(envelopes):
    """
    Take over what the weights' loop has decided; the reactor calls it, nobody by hand.

    Returns for each farm: site, farm, the epoch that is here now, changed, farm_state, applied
    (server -> weight and state as HAProxy has them), left_alone (servers that a hand or a rollout
    holds, and why), kept_ready (servers that are not drained although they should be, and why),
    refused (when a newer vector is here, or HAProxy could not take this one), left (when the farm
    is not open, so that the vector waits) and proof. What the master did not sign for now and here
    is an error.

    envelopes
        Of each farm the vector as text with the master's signature: ``{"body": …, "signature": …}``
    """
    if not isinstance(envelopes, list) or not envelopes:
        raise WebfarmError("envelopes: expected a list of vectors; nothing was changed")
    site = (__grains__.get("webfarm") or {}).get("site")
    if not site:
        raise WebfarmError(
            "this minion is no site balancer by its grains `webfarm:site`; nothing was changed. "
            "Apply its highstate"
        )
    done, errors = [], []
    for envelope in envelopes:
        try:
            done.append(_applied(envelope, site))
        except WebfarmError as error:
            errors.append(str(error))
    if not done:
        raise WebfarmError("; ".join(errors))
    return done + [{"error": error} for error in errors]


def _applied(envelope, site):
    keys = Path(__opts__["pki_dir"])
    body = _signed.open_(envelope, keys / "minion_master.pub", _signed.VECTOR, _vector.MAX_BYTES)
    vector = _vector.read(body, site, time.time())
    try:
        result = _weights.apply(_balancer(), site, vector)
    except WebfarmError as error:  # an answer all the same: who answers is not away
        result = _weights.refused(site, vector.farm, 0, str(error))
    return _confirm.proven(result, __opts__["id"], keys / "minion.pem", time.time())


def get_map(name):
    """
    A map as HAProxy uses it now: key -> value.

    name
        ``farm_state``, ``farm_generation``, ``farm_release``, ``farm_pick``, ``farm_pick_newest``;
        at a primary ``site_state``, ``site_pick``

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.get_map farm_release
    """
    return _balancer().get_map(name)


def farms(hold=None):
    """
    The farms of this site balancer: per farm state, generation, release (what the fence expects),
    in_flight, queued, counters, up and servers; newest, amnesty, pick and pick_newest (slots of
    256), disk_agrees, pid, old_workers.

    ``counters`` are ``requests``, ``errors`` (answers of 5xx) and ``response_ms`` (HAProxy's moving
    average) of the process ``pid``: a reload begins them anew.

    hold
        What a rollout proves its lease with, ``SITE:TOKEN.NUMBER``; one that is older than the
        newest seen is refused. Left out by hand.

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.farms
    """
    _hold.of(__opts__).see(hold)
    return _farms.farms(_balancer())


def set_farms(
    state=None,
    generation=None,
    newest=None,
    release=None,
    pick=None,
    pick_newest=None,
    force=False,
    hold=None,
    amnesty=None,
):
    """
    Change farms of this site balancer; all is checked before anything is changed. Returns what
    ``farms`` returns.

    state
        farm -> ``open``, ``drain`` (keeps its sessions), ``closed`` (its sessions move) or
        ``ready`` (verified; serves only sessions that no older farm may serve)
    generation, newest
        farm -> generation, and the newest of the site; they never go down
    release
        farm -> release: only servers that run it get requests
    pick, pick_newest
        farm -> weight, complete: the farms that new sessions go to, and those for sessions of the
        newest generation
    force
        open a farm of which no server is UP
    hold
        as in :py:func:`farms`, and it must have looked within 20 s; nobody can take over before the
        change is made
    amnesty
        a session of this generation or an older one may be answered by an older farm when no other
        is there, which resets it if it saw a newer release: the way back. It never goes down

    CLI Example:

    .. code-block:: bash

        salt 'site1-lb*' haproxy_runtime.set_farms state='{farm2: drain}' pick='{farm1: 1}'
    """
    with _hold.of(__opts__).under(hold):
        return _farms.set_farms(
            _balancer(), state, generation, newest, release, pick, pick_newest, force, amnesty
        )


def set_servers(states, force=False, hold=None):
    """
    Take single servers out of service for a rollout, or put them back; an operator uses
    ``set_state``. All is checked before anything is changed: a server that an operator holds is
    refused, and so is the last one of a farm that is UP. Returns ``{"changed", "left_alone"}``.

    states
        farm -> server -> ``drain``, ``maint`` or ``ready``; only what a rollout took is made ready
    force
        also the last server of a farm
    hold
        as in :py:func:`set_farms`

    CLI Example:

    .. code-block:: bash

        salt 'site1-lb*' haproxy_runtime.set_servers '{farm1: {site1-farm1-ws1: drain}}'
    """
    with _hold.of(__opts__).under(hold):
        return _members.set_servers(_balancer(), states, force)


def evidence(farm):
    """
    What is in flight in a farm, over all workers of HAProxy, those that finish after a reload
    included.

    CLI Example:

    .. code-block:: bash

        salt 'site1-lb*' haproxy_runtime.evidence farm2
    """
    return _balancer().evidence(farm)


def sites():
    """
    The sites of this primary balancer: per site state, in_flight, queued, up and its balancers;
    pick, disk_agrees.

    CLI Example:

    .. code-block:: bash

        salt lb1 haproxy_runtime.sites
    """
    return _sites.sites(_balancer())


def set_sites(state=None, pick=None):
    """
    Change sites of this primary balancer. Returns what ``sites`` returns.

    state
        site -> ``open``, ``drain`` (keeps its sessions) or ``closed`` (its sessions move, and are
        lost)
    pick
        site -> weight, complete: the sites that new sessions go to

    CLI Example:

    .. code-block:: bash

        salt 'lb*' haproxy_runtime.set_sites state='{site2: drain}' pick='{site1: 1}'
    """
    return _sites.set_sites(_balancer(), state, pick)


def ensure_farms(weights, release, siblings=(), test=False):
    """
    Create the farm maps when they are missing; add new farms (closed) and drop those that are gone.
    Values that were set at run time stay. Returns map -> {"old", "new"}.

    weights
        farm -> share of new sessions on a bare balancer
    release
        what a new farm runs
    siblings
        ``host:port`` of the site's other balancers; one without maps takes over what they have
    test
        change nothing, only say what would change

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.ensure_farms '{farm1: 200, farm2: 200}' 2026.11.1 test=True
    """
    return _farms.ensure(_balancer(), weights, release, siblings, test=test)


def ensure_sites(weights, test=False):
    """
    Create the site maps when they are missing; add new sites (closed) and drop those that are gone.

    weights
        site -> share of new sessions on a bare balancer

    CLI Example:

    .. code-block:: bash

        salt lb1 haproxy_runtime.ensure_sites '{site1: 100, site2: 100}' test=True
    """
    return _sites.ensure(_balancer(), weights, test=test)


def reload():
    """
    Reload HAProxy's configuration without losing a request, a weight, a state or a map.

    CLI Example:

    .. code-block:: bash

        salt site1-lb1 haproxy_runtime.reload
    """

    def run():
        result = __salt__["cmd.run_all"](
            ["systemctl", "reload", "haproxy"], python_shell=False, timeout=120
        )
        if result["retcode"]:
            raise WebfarmError(
                f"systemctl reload haproxy failed: {result['stderr'] or result['stdout']}; the "
                "running configuration is "
                "the old one, see `journalctl -u haproxy`"
            )

    balancer = _balancer()
    done = balancer.reload(run)
    _weights.reassert(balancer)
    return done


def reconcile():
    """
    Make HAProxy hold what the maps on disk say, then what the weights' loop has last said, and the
    state file what HAProxy says. Returns what had to change.

    CLI Example:

    .. code-block:: bash

        salt '*-lb*' haproxy_runtime.reconcile
    """
    balancer = _balancer()
    changed = _farms.reconcile(balancer)
    weights = _weights.reassert(balancer)
    return {**changed, **({"weights": weights} if weights else {})}
