"""See and hold the weights that follow the servers' health.

The engine ``webfarm_rebalance`` decides; these commands read what it keeps on this master's disk,
and leave wishes for it there.
"""

import webfarm

webfarm.renew(__file__)

import json
import logging
import sqlite3
import sys
import time
from pathlib import Path

from salt.exceptions import SaltException
from webfarm import names
from webfarm.errors import BadName, WebfarmError
from webfarm.rebalance import commands, salt_bus, table
from webfarm.rebalance import simulate as simulate_
from webfarm.rebalance.book import Book
from webfarm.rollout import salt_master

log = logging.getLogger(__name__)

__virtualname__ = "rebalance"


def __virtual__():
    return __virtualname__


def status(site=None, farm=None):
    """
    Show each farm: its servers' base weights, reports, estimates, targets, what each balancer has
    applied, and why. Exits non-zero while no engine decides.

    site, farm
        As the pillar names them; by default all.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.status
        salt-run rebalance.status site1 farm1 --out=json
    """
    return _run(
        lambda book, known: commands.status(book, known, site, farm, time.time()),
        site=site,
        farm=farm,
    )


def explain(server):
    """
    Show the last changes of a server's weight, each with what it was decided from.

    server
        A web server's minion id.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.explain site1-farm1-ws1
    """
    return _run(
        lambda book, known: commands.explain(book, known, server, time.time()),
        required=("server",),
        server=server,
    )


def freeze(site, farm=None, server=None, reason=None, expires=None):
    """
    Hold the weights, and the loop's drains, where they are. Reports are still heard.

    site, farm, server
        What is held: a whole site, a farm, or one server.
    reason
        Why; it must be given.
    expires
        A length of time such as ``30m``, ``2h`` or ``1d``; default: until it is thawed.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.freeze site1 farm1 reason='load test' expires=2h
    """
    return _run(
        lambda book, known: commands.freeze(
            book, known, site, farm, server, reason, expires, salt_bus.user(), time.time()
        ),
        required=("site",),
        site=site,
        farm=farm,
        server=server,
    )


def thaw(site, farm=None, server=None):
    """
    Take a freeze back: exactly the one of that site, farm or server.

    site, farm, server
        As they were given to :py:func:`freeze`.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.thaw site1 farm1
    """
    return _run(
        lambda book, known: commands.thaw(book, known, site, farm, server, time.time()),
        required=("site",),
        site=site,
        farm=farm,
        server=server,
    )


def reconcile(site=None, farm=None):
    """
    Send the weights to the balancers again, and wait until each has answered.

    site, farm
        As the pillar names them; by default all.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.reconcile site1
    """
    return _run(
        lambda book, known: commands.reconcile(book, known, site, farm, time.time, time.sleep),
        site=site,
        farm=farm,
    )


def simulate(reports, ticks=None, repeat=False):
    """
    Show what the law would do with these reports, from base weights on; changes nothing.

    reports
        A list of mappings with a server's ``id`` and what differs from a calm server's report, or
        the path of a JSON file with one. ``at`` (seconds) orders them.
    ticks
        How many decisions.
    repeat
        Let every server say its last report again and again.

    CLI Example:

    .. code-block:: bash

        salt-run rebalance.simulate '[{id: ws1, busy: 60.0}, {id: ws2}]' repeat=True
        salt-run rebalance.simulate /root/reports.json
    """
    return _run(
        lambda book, known: simulate_.simulate(known, _reports(reports), ticks, repeat),
    )


def _reports(given):
    if not isinstance(given, str):
        return given
    try:
        return json.loads(Path(given).read_text())
    except (OSError, ValueError) as error:
        raise WebfarmError(f"reports: {given:.200} cannot be read as JSON: {error}") from None


def _run(ask, required=(), **given):
    """Check the names, open the book, run the command; the data sets the exit code."""
    opts = __opts__
    cli = str(opts.get("fun", "")).startswith("rebalance.")
    try:
        for what, name in given.items():
            if name is not None or what in required:
                names.check(name, what)
        known = salt_master.topology(opts)
        with Book(salt_bus.book_path(opts)) as book:
            data = ask(book, known)
    except BadName as error:
        if not cli:  # called from a program: it must not go on with such a name
            raise
        data = {"result": False, "message": str(error)}
    except SaltException as error:
        data = {"result": False, "message": str(error)}
    except (sqlite3.Error, OSError) as error:
        data = {"result": False, "message": f"the master's disk does not work: {error}"}
    except Exception as error:  # salt-run would print a traceback, or exit with 0
        log.exception("rebalance failed")
        kind = type(error).__name__
        message = f"a mistake in Webfarm ({kind}): see the traceback in the master's log"
        data = {"result": False, "message": message}
    shown = cli and not opts.get("output")
    if shown and "engine" in data:
        table.show_status(data, sys.stdout)
        data = table.brief(data)
    if not data.get("result", True):
        data["retcode"] = 1
    return {"data": data, "outputter": "yaml"} if shown else data
