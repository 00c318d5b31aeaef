"""Ask the observation whether a step on servers is done."""

from webfarm.rollout.model import Goal, Memory, Seen, ServerView, Step, listed
from webfarm.rollout.situation import Situation
from webfarm.topology import Site


def lacking(step: Step, goal: Goal, site: Site, seen: Seen, memory: Memory) -> dict[str, str]:
    """Which targets of a step on servers are not where it takes them, and what each shows."""
    now = Situation(goal, site, seen, memory)
    out = {}
    for name in step.targets:
        view = now.server(name)
        if not view.answered:
            out[name] = f"does not answer: {view.why}"
        elif step.name == "stage" and not view.has(goal.php, goal.webapp):
            out[name] = f"php {goal.php} or webapp {goal.webapp} is not installed"
        elif step.name in ("switch", "rejoin", "verify") and not view.runs(goal.release):
            out[name] = f"expected {goal.release}, {_shows(view)}"
        elif (
            step.name in ("rejoin", "verify")
            and not now.blind
            and not now.up(name)
            and not now.withheld(name)
        ):
            out[name] = f"is not UP on {listed(now.not_up_on(name))}"
    return out


def _shows(view: ServerView) -> str:
    if view.release is None:
        return f"it shows no release: {view.why}"
    return f"it shows {view.release}" + ("" if view.ready else f", not ready: {view.why}")
