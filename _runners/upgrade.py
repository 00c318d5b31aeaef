"""Upgrade the cluster, farm by farm, without losing a request, a session or a second of service.

Each command observes first and goes on from what it sees, so after a crash, a lost connection or
Ctrl-C the same command again finishes what was begun.

:configuration: The pillar ``webfarm`` is compiled on the master, as the minion
``webfarm_pillar_minion`` of the master's
    configuration would get it; default: the master's own minion, then any accepted minion that has
    it. ``webfarm_lease_seconds`` (60) is how long a site stays held when its run is not heard of.
"""

import webfarm

webfarm.renew(__file__)

import logging
import sqlite3
import sys

from salt.exceptions import SaltException
from webfarm import names
from webfarm.errors import BadName
from webfarm.rollout import arguments, back, commands, control, salt_master, servers
from webfarm.rollout import status as status_
from webfarm.rollout.interrupts import Interrupts
from webfarm.rollout.plan_table import show_plan
from webfarm.rollout.report import brief, watcher_for
from webfarm.rollout.waves import commands as waves

log = logging.getLogger(__name__)

__virtualname__ = "upgrade"
__func_alias__ = {"all_": "all", "os_": "os"}

PAUSES = "pausing after this step; `salt-run upgrade.resume` goes on from there"
GOES_ON = "the run goes on"


def __virtual__():
    return __virtualname__


def plan(site=None, farm=None, release=None, order=None, policy=None, reset_sessions=False):
    """
    Show what an upgrade would do: the policy in force, each step with its targets, the capacity at
    each moment, how long it takes; changes nothing.

    site, farm
        The scope; by default every farm of every site.
    release
        A release of the pillar; default: the pillar's ``target``.
    order, policy
        As in :py:func:`site`.
    reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.plan
        salt-run upgrade.plan site1 farm2
    """
    return _run(
        lambda context: commands.plan(context, site, farm, release, order, policy, reset_sessions),
        site=site,
        farm=farm,
        release=release,
        order=order,
    )


def farm(site, farm, release=None, policy=None, plan_id=None, override=None, reset_sessions=False):
    """
    Take one farm to a release.

    site, farm
        As the pillar names them.
    release
        A release of the pillar; default: the pillar's ``target``. Two pairs of quotes keep Salt
        from reading a number: ``release="'2026.11'"``.
    policy
        What this run overrides in the site's policy: ``policy='{soak_seconds: 60}'``.
    plan_id
        Of ``upgrade.plan``; refused when the cluster has changed since.
    override
        The reason to run outside the maintenance windows or in a freeze; it is recorded.
    reset_sessions
        Allow a release that is older than one that sessions have seen; those sessions are reset.

    Ctrl-C pauses after the current step; ``upgrade.resume`` or the same command goes on.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.farm site1 farm2
        salt-run upgrade.farm site1 farm2 release=2026.11.2 --out=json
    """
    return _run(
        lambda context: commands.upgrade(
            context, site, farm, release, None, policy, plan_id, override, reset_sessions
        ),
        required=("site", "farm"),
        site=site,
        farm=farm,
        release=release,
        plan_id=plan_id,
    )


def site(
    site,
    release=None,
    order=None,
    policy=None,
    plan_id=None,
    override=None,
    reset_sessions=False,
):
    """
    Take a site to a release, farm by farm; the first farm that fails ends it.

    order
        The farms in another order than the pillar's: ``order=farm2,farm1``.
    site, release, policy, plan_id, override, reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.site site1
        salt-run upgrade.site site1 order=farm2,farm1 policy='{on_failure: rollback}'
    """
    return _run(
        lambda context: commands.upgrade(
            context, site, None, release, order, policy, plan_id, override, reset_sessions
        ),
        required=("site",),
        site=site,
        release=release,
        order=order,
        plan_id=plan_id,
    )


def all_(release=None, order=None, policy=None, plan_id=None, override=None, reset_sessions=False):
    """
    Take every site to a release, site by site, farm by farm.

    order
        The sites, or all farms as ``site1/farm2``, in another order than the pillar's.
    release, policy, plan_id, override, reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.all
        salt-run upgrade.all order=site2,site1 plan_id=p0123456789abcdef01234567
    """
    return _run(
        lambda context: commands.upgrade(
            context, None, None, release, order, policy, plan_id, override, reset_sessions
        ),
        release=release,
        order=order,
        plan_id=plan_id,
    )


def os_(
    site,
    packages,
    kind,
    reboot="auto",
    policy=None,
    plan=False,
    plan_id=None,
    override=None,
    force=None,
):
    """
    Install packages of the operating system on every web server of a site, or of all.

    site
        As the pillar names it, or ``all``.
    packages
        The very set that was certified: ``packages='[openssl, nginx]'``.
    kind
        ``disruptive``: one server of each farm at a time is taken out of service on every balancer,
        keeps a snapshot, installs, restarts or reboots, is verified and put back; ``online``: for
        packages that restart nothing, refused when they would disturb a service.
    reboot
        ``auto`` (as the packages need), ``yes`` or ``no``.
    plan
        True shows the waves, who is in each, what is left of each farm and site, and a ``plan_id``;
        changes nothing.
    policy, plan_id, override
        As in :py:func:`farm`; ``min_farm_capacity``, ``install_seconds`` and ``reboot_seconds`` are
        the policy's keys for waves.
    force
        The reason to go ahead without a certificate; it is recorded.

    A server that fails is taken back from its snapshot, the run pauses, and the next wave is not
    begun. ``upgrade.rollback`` takes a run back, its last wave first.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.os all packages='[linux-image-amd64]' kind=disruptive plan=True
        salt-run upgrade.os site1 packages='[rsync, curl]' kind=online
    """
    return _run(
        lambda context: waves.upgrade_os(
            context, site, packages, kind, reboot, policy, plan, plan_id, override, force
        ),
        required=("site", "kind"),
        site=site,
        kind=kind,
        plan_id=plan_id,
    )


def server(site, farm, server):
    """
    Bring one server to its farm's release, its trees verified first, and back into service.

    site, farm, server
        As the pillar names them; the farm must be open.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.server site1 farm2 site1-farm2-ws1
    """
    return _run(
        lambda context: servers.server(context, site, farm, server),
        required=("site", "farm", "server"),
        site=site,
        farm=farm,
        server=server,
    )


def rejoin(minion):
    """
    For a reactor on a minion's start: bring it to its farm's release if it is a web server that is
    out of service.

    minion
        A minion's id. One that is no web server, or whose farm is being changed by a run, is left
        as it is: that is no error, ``message`` says why.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.rejoin site1-farm2-ws1
    """
    return _run(
        lambda context: servers.rejoin(context, minion), required=("minion",), minion=minion
    )


def status(site=None):
    """
    Show the farms as the balancers have them, who holds which site, the runs that have not ended,
    the servers that are left out, the releases that are marked bad, and the windows that are
    closed.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.status
    """
    return _run(lambda context: status_.status(context, site), site=site)


def watch(id=None):
    """
    Follow a run that goes on elsewhere, until it ends or pauses; the exit code is the run's. Ctrl-C
    ends only the watching.

    id
        The run's number; default: the only one that has not ended.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.watch
    """
    return _run(lambda context: status_.watch(context, id), watching=True)


def history(id=None, limit=20, rollout=None):
    """
    Show the latest runs, or one with its farms, steps, evidence and decisions.

    id
        The number of a run.
    limit
        How many runs.
    rollout
        The number of one farm's rollout within a run.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.history
        salt-run upgrade.history 7
    """
    return _run(lambda context: status_.history(context, limit, id, rollout))


def pause(id=None, reason=None):
    """
    Let a run stop after its current step; steps that only wait end at once. Each farm stays as it
    is until somebody goes on.

    id
        The run's number; default: the only one that has not ended.
    reason
        For the record.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.pause
        salt-run upgrade.pause 7 reason='the shop is busy'
    """
    return _run(lambda context: control.pause(context, id, reason))


def resume(id=None, override=None):
    """
    Go on with a run that is paused or whose process is gone. It also passes the approval for which
    a run waits, in the name of who types it.

    id
        The run's number; default: the only one that has not ended.
    override
        As in :py:func:`farm`, for a run that paused when its window closed.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.resume
    """
    return _run(lambda context: control.resume(context, id, override))


def abort(id=None, reason=None):
    """
    End a run: the farm under way goes back into service, on the release that it had if no session
    can have seen the new one. Farms that were done stay.

    id
        The run's number; default: the only one that has not ended.
    reason
        For the record.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.abort 7 reason='too slow'
    """
    return _run(lambda context: control.abort(context, id, reason))


def rollback(id=None, site=None, farm=None, release=None, reset_sessions=False, reason=None):
    """
    Take the farms of a run, in reverse, or one farm back to the release that each had before.

    id
        The run's number; default: the only one that has not ended.
    site, farm
        Instead of a run: this farm.
    release
        With a farm: the release to go back to; default: the one before its last upgrade.
    reset_sessions
        Without True nothing is done, and the number of sessions that would be reset is said.
    reason
        For the record.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.rollback 7
        salt-run upgrade.rollback 7 reset_sessions=True
        salt-run upgrade.rollback site=site1 farm=farm2 reset_sessions=True
    """
    return _run(
        lambda context: back.rollback(context, id, site, farm, release, reset_sessions, reason),
        site=site,
        farm=farm,
        release=release,
    )


def unlock(site, reason=None):
    """
    Take a site's lease away from a holder that will never go on; recorded. What it still sends is
    refused by the minions.

    site
        As the pillar names it.
    reason
        Why; it must be given.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.unlock site1 reason='master2 burnt down'
    """
    return _run(
        lambda context: control.unlock(context, site, reason), required=("site",), site=site
    )


def bad(release, reason=None):
    """
    Mark a release as bad: it is refused from now on; recorded.

    release
        A release of the pillar.
    reason
        Why; it must be given.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.bad 2026.11.2 reason='loses carts'
    """
    return _run(
        lambda context: control.bad(context, release, reason),
        required=("release",),
        release=release,
    )


def good(release, reason=None):
    """
    Take the mark of :py:func:`bad` back; recorded.

    release
        A release that is marked bad.
    reason
        Why; it must be given.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.good 2026.11.2 reason='it was the database'
    """
    return _run(
        lambda context: control.good(context, release, reason),
        required=("release",),
        release=release,
    )


def _run(ask, required=(), watching=False, order=None, **given):
    """Check the names, build what a command needs, run it; the data sets the exit code."""
    opts = __opts__
    quiet = bool(opts.get("quiet") or opts.get("output") not in (None, "", "nested", "yaml"))
    watcher = watcher_for(sys.stderr, quiet, watching)
    cli = str(opts.get("fun", "")).startswith("upgrade.")
    try:
        for what, name in given.items():
            if name is not None or what in required:
                names.check(name, what)
        if order is not None:
            arguments.words(order)
        words = GOES_ON if watching else PAUSES
        with (
            Interrupts("" if quiet else words, cli) as interrupts,
            salt_master.context(opts, watcher, interrupts.asked) as context,
        ):
            data = ask(context)
    except BadName as error:
        if not cli:  # called from a program: it must not go on with such a name
            raise
        data = {"result": False, "message": str(error)}
    except SaltException as error:  # WebfarmError is one, and so is a master that does not answer
        data = {"result": False, "message": str(error)}
    except (sqlite3.Error, OSError) as error:
        data = {"result": False, "message": f"the master's disk or journal does not work: {error}"}
    except Exception as error:  # salt-run would print a traceback, or exit with 0
        log.exception("upgrade failed")
        kind = type(error).__name__
        message = f"a mistake in Webfarm ({kind}): see the traceback in the master's log"
        data = {"result": False, "message": message}
    finally:
        watcher.close()
    shown = cli and not opts.get("output")
    if shown:
        show_plan(data, sys.stderr)
        data = brief(data)
    if not data.get("result", True):
        data["retcode"] = 1
    return {"data": data, "outputter": "yaml"} if shown else data
