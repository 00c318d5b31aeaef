"""Let a run of releases go ahead when what it takes to production is certified, or was forced."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from webfarm.certificates import file, releases
from webfarm.certificates.book import opened
from webfarm.certificates.model import Uncertified
from webfarm.rollout import arguments
from webfarm.rollout.context import Context
from webfarm.rollout.journal_runs import asks_the_same
from webfarm.rollout.model import Goal, Run
from webfarm.topology import Topology


def path(journal: Path | str) -> Path:
    """The file of the certificates, beside the journal."""
    return Path(journal).with_name(file.NAME)


def profiles(topology: Topology, goals: Sequence[Goal]) -> list[str]:
    """The hardware profiles of all servers of the goals' farms, in the pillar's order."""
    return list(
        dict.fromkeys(
            server.hw_profile
            for goal in goals
            for server in topology.farm(goal.site, goal.farm).servers.values()
        )
    )


def admit(context: Context, run: Run, force: object = None) -> Run:
    """The run, with the digests that were certified where the store knows none.

    force
        The reason to go ahead without a certificate; recorded when the run begins.

    A run that is taken up was admitted when it began: it is not asked again. Raises
    :class:`Uncertified` before anything is asked or changed.
    """
    why = arguments.reason(force, "force", needed=force is not None)
    if not releases.needed(context.topology) or _taken_up(context, run):
        return run
    try:
        with opened(path(context.journal_path)) as book:
            now = context.clock.time()
            goal = run.goals[0]
            affected = profiles(context.topology, run.goals)
            digests = releases.require(
                book, context.topology, goal.release, affected, goal.digests, now
            )
    except Uncertified as error:
        if not why:
            raise
        return replace(run, force=why, past=str(error))
    if goal.digests is not None:
        return run
    return replace(run, goals=tuple(replace(one, digests=dict(digests)) for one in run.goals))


def refusal(context: Context, run: Run) -> tuple[Run, str]:
    """The run as it would be, and why it would be refused; empty when it would not."""
    try:
        return admit(context, run), ""
    except Uncertified as error:
        return run, str(error)


def _taken_up(context: Context, run: Run) -> bool:
    with context.journal() as journal:
        return any(asks_the_same(data["run"], run) for data in journal.unfinished())
