"""Upgrade the cluster, farm by farm, without losing a request, a session or a second of service.

Each command observes first and goes on from what it sees, so after a crash, a lost connection or
Ctrl-C the same command again finishes what was begun.

:configuration: The pillar ``webfarm`` is compiled on the master, as the minion
``webfarm_pillar_minion`` of the master's
    configuration would get it; default: the master's own minion, then any accepted minion that has
    it.
"""

import webfarm

webfarm.renew(__file__)

import getpass
import logging
import os
import signal
import sys
import time
from pathlib import Path

import salt.client
import salt.key
import salt.pillar
import salt.utils.minions
from salt.exceptions import SaltException
from webfarm import names, store
from webfarm import topology as topology_
from webfarm.errors import BadName, WebfarmError
from webfarm.rollout import commands
from webfarm.rollout.report import brief, show_plan, watcher_for
from webfarm.rollout.salt_cluster import SaltCluster

log = logging.getLogger(__name__)

__virtualname__ = "upgrade"
__func_alias__ = {"all_": "all"}


def __virtual__():
    return __virtualname__


def plan(site=None, farm=None, release=None, reset_sessions=False):
    """
    Show what an upgrade would do, step by step, with its targets and the capacity at each moment;
    changes nothing.

    site, farm
        The scope; by default every farm of every site.
    release
        A release of the pillar; default: the pillar's ``target``.
    reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.plan
        salt-run upgrade.plan site1 farm2
    """
    return _run(
        lambda context: context.plan(site, farm, release, reset_sessions),
        site=site,
        farm=farm,
        release=release,
    )


def farm(site, farm, release=None, reset_sessions=False):
    """
    Take one farm to a release.

    site, farm
        As the pillar names them.
    release
        A release of the pillar; default: the pillar's ``target``. Two pairs of quotes keep Salt
        from reading a number: ``release="'2026.11'"``.
    reset_sessions
        Allow a release that is older than one that sessions have seen; those sessions are reset.

    Ctrl-C stops after the current step. Run the same command again to go on.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.farm site1 farm2
        salt-run upgrade.farm site1 farm2 release=2026.11.2 --out=json
    """
    return _run(
        lambda context: context.farm(site, farm, release, reset_sessions),
        required=("site", "farm"),
        site=site,
        farm=farm,
        release=release,
    )


def site(site, release=None, reset_sessions=False):
    """
    Take a site to a release, farm by farm in the pillar's order; the first farm that fails ends it.

    site, release, reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.site site1
    """
    return _run(
        lambda context: context.farms(site, release, reset_sessions),
        required=("site",),
        site=site,
        release=release,
    )


def all_(release=None, reset_sessions=False):
    """
    Take every site to a release, one after the other, farm by farm in the pillar's order.

    release, reset_sessions
        As in :py:func:`farm`.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.all
    """
    return _run(lambda context: context.farms(None, release, reset_sessions), release=release)


def status(site=None):
    """
    Show the farms as the balancers have them, who holds which site, and the rollouts that have not
    ended.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.status
    """
    return _run(lambda context: context.status(site), site=site)


def history(limit=20, rollout=None):
    """
    Show the latest rollouts, or the steps of one with their evidence.

    limit
        How many rollouts.
    rollout
        The number of a rollout.

    CLI Example:

    .. code-block:: bash

        salt-run upgrade.history
        salt-run upgrade.history rollout=7
    """
    return _run(lambda context: context.history(limit, rollout))


def _run(ask, required=(), **given):
    """Check the names, build what a command needs, run it; the data sets the exit code."""
    opts = __opts__
    quiet = bool(opts.get("quiet") or opts.get("output") not in (None, "", "nested", "yaml"))
    watcher = watcher_for(sys.stderr, quiet)
    cli = str(opts.get("fun", "")).startswith("upgrade.")
    client = None
    try:
        for what, name in given.items():
            if name is not None or what in required:
                names.check(name, what)
        with _Interrupts(quiet, cli) as interrupts:
            topology = _topology()
            client = salt.client.get_local_client(mopts=opts)
            context = commands.Context(
                topology=topology,
                cluster=SaltCluster(client, topology),
                clock=time,
                journal_path=Path(opts["cachedir"]) / "webfarm" / "journal.sqlite",
                digests=_digests(),
                holder=os.environ.get("SUDO_USER") or getpass.getuser(),
                watcher=watcher,
                stopping=interrupts.stopping,
            )
            data = ask(context)
    except BadName as error:
        if not cli:  # called from a program: it must not go on with such a name
            raise
        data = {"result": False, "message": str(error)}
    except SaltException as error:  # WebfarmError is one, and so is a master that does not answer
        data = {"result": False, "message": str(error)}
    except TypeError:  # salt-run would print "Passed invalid arguments" and exit with 0
        log.exception("upgrade failed")
        data = {"result": False, "message": "a mistake in Webfarm: see the traceback in the log"}
    finally:
        watcher.close()
        if client is not None:
            client.destroy()
    shown = cli and not opts.get("output")
    if shown:
        show_plan(data, sys.stderr)
        data = brief(data)
    if not data.get("result", True):
        data["retcode"] = 1
    return {"data": data, "outputter": "yaml"} if shown else data


class _Interrupts:
    """Ctrl-C asks the rollout to stop after the current step; a second one changes nothing."""

    def __init__(self, quiet, cli):
        self.quiet = quiet
        self.cli = cli
        self.asked = False
        self.before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._handle)
            except (
                ValueError
            ):  # not in the main thread: salt-api or a reactor, where nobody types Ctrl-C
                break
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            # asked already: only the outcome is left to be shown, one more must not cut it off
            ending = self.cli and self.asked
            signal.signal(number, signal.SIG_IGN if ending else handler)

    def _handle(self, *_):
        self.asked = True
        if not self.quiet:
            sys.stderr.write("\nstopping after this step; the same command goes on from there\n")

    def stopping(self):
        return self.asked


def _topology():
    """The pillar ``webfarm``, compiled here: minions may be down, the master's word counts."""
    problems = []
    for minion in _pillar_minions():
        _, grains, _ = salt.utils.minions.get_minion_data(minion, __opts__)
        grains = grains or {"id": minion, "fqdn": minion}
        compiled = salt.pillar.Pillar(__opts__, grains, minion, "base").compile_pillar()
        if compiled.get("_errors"):
            problems += [f"pillar of {minion}: {error}" for error in compiled["_errors"]]
        elif "webfarm" in compiled:
            return topology_.parse(compiled["webfarm"])
        else:
            problems.append(f"pillar of {minion}: has no `webfarm`")
        if len(problems) > 5:
            break
    raise WebfarmError(
        "the master cannot compile the pillar `webfarm`; assign it in the pillar's top file, or "
        "name a minion that has it as webfarm_pillar_minion in the master's configuration:\n  "
        + "\n  ".join(problems)
    )


def _digests():
    """The release store's digests; None where the store is not on this master."""
    root = Path(__opts__.get("webfarm_store", store.ROOT))
    return store.Store(root).digest if root.is_dir() else None


def _pillar_minions():
    named = __opts__.get("webfarm_pillar_minion")
    if named:
        return [names.check(named, "webfarm_pillar_minion")]
    own = str(__opts__["id"]).removesuffix("_master")
    with salt.key.get_key(__opts__) as keys:
        accepted = keys.list_keys().get("minions", [])
    return [own, *[minion for minion in sorted(accepted) if minion != own]]
