"""Let the weights of the farms' servers follow their health.

The loop of :py:mod:`webfarm.rebalance`: it hears the beacon ``webfarm_health`` of each web server,
decides on each farm every few seconds, and fires ``webfarm/weights/SITE/FARM``, or
``webfarm/weights/SITE`` for several farms, which the reactor ``weights.sls`` hands to the site's
balancers.

:configuration: In the configuration of one master, the one that the minions of the balancers obey:

    .. code-block:: yaml

        engines:
          - webfarm_rebalance: {}

    The pillar ``webfarm`` is compiled as for the runner ``upgrade``; ``webfarm:sites:SITE:weights``
    has the law's parameters.
"""

import webfarm

webfarm.renew(__file__)

from webfarm.rebalance import salt_bus

__virtualname__ = "webfarm_rebalance"


def __virtual__():
    if __opts__.get("__role") != "master":
        return False, "webfarm_rebalance runs on a master"
    return __virtualname__


def start(reload_seconds=60):
    """
    Run until the master stops.

    reload_seconds
        How often the pillar is looked at.
    """
    salt_bus.run(__opts__, float(reload_seconds))
