"""Conduct a run in this process, and afterwards bring back the servers that returned meanwhile."""

from webfarm.errors import WebfarmError
from webfarm.rollout import servers
from webfarm.rollout.context import Context
from webfarm.rollout.model import Run, Wish
from webfarm.rollout.status import Data


def conduct(context: Context, run: Run, wish: Wish | None = None) -> Data:
    """The run's outcome as data; ``returned`` names what came of servers that returned."""
    data = context.conduct(run, wish)
    if data["state"] in ("paused", "refused"):
        return data
    try:
        with context.journal() as journal:
            since = journal.run(data["run"])["started"]
        back = servers.returned(context, run.sites, since)
    except WebfarmError as error:  # the run has ended, whatever this is
        back = {"not all": str(error)}
    return {**data, "returned": back} if back else data
