"""Choose how a run is shown, and say its data in few words where the run itself was shown."""

import time
from collections.abc import Mapping
from typing import Any, TextIO

from webfarm.rollout.lines import Lines
from webfarm.rollout.screen import Screen
from webfarm.rollout.watcher import Watcher

_OF_A_ROLLOUT = (
    *("result", "state", "message", "cluster", "next", "quarantined", "rollout", "seconds"),
)


def watcher_for(stream: TextIO, quiet: bool, watching: bool = False) -> Watcher:
    """The watcher that suits where the output goes; ``watching`` a run of another process."""
    if quiet:
        return Watcher()
    return Screen(stream, watching) if stream.isatty() else Lines(stream)


def brief(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is left to say on a terminal when the steps or the plan were shown already."""
    said = _brief(data)
    if "\n" in str(said.get("message", "")):
        said["message"] = [line.strip() for line in said["message"].splitlines()]
    return said


def _brief(data: Mapping[str, Any]) -> dict[str, Any]:
    if "farms" in data and "changes" in data:
        ends = {
            f"{farm['site']} {farm['farm']}": farm.get("end") or farm.get("refused")
            for farm in data["farms"]
        }
        kept = {k: v for k, v in data.items() if k not in ("farms", "policy") and v not in ("", {})}
        return {**kept, "farms": ends}
    if "outcomes" in data:
        short = {
            f"{one['site']} {one['farm']}": {k: v for k, v in brief(one).items() if k != "result"}
            for one in data["outcomes"]
        }
        return {**data, "outcomes": short}
    if "certificates" in data:
        return {"certificates": len(data["certificates"])}  # the table has shown them
    if "runs" in data:
        return {"runs": [run_line(run) for run in data["runs"]]}
    if "rollout" in data and "cluster" in data:
        return {key: data[key] for key in _OF_A_ROLLOUT if data.get(key) not in (None, {}, "")}
    if "rollouts" in data:
        return _whole_run(data)
    if "unfinished" in data:
        return _status(data)
    return dict(data)


def _whole_run(data: Mapping[str, Any]) -> dict[str, Any]:
    """A run of the history, one line a step."""
    said: dict[str, Any] = {"run": run_line(data)}
    said |= {key: data[key] for key in ("policy", "override") if data[key]}
    if data["steps"]:
        said["before the first farm"] = [_step(step) for step in data["steps"]]
    for rollout in data["rollouts"]:
        where = f"{rollout['site']} {rollout['farm']} (rollout {rollout['id']})"
        message = (rollout["outcome"] or {}).get("message", "")
        steps = [_step(step) for step in rollout["steps"]]
        said[where] = {"state": f"{rollout['state']}. {message}".strip(". "), "steps": steps}
    if data["records"]:
        said["decisions"] = [
            f"{utc(record['at'])} {record['who']}: {record['what']} {record['why']}".rstrip()
            for record in data["records"]
        ]
    return said


def _step(step: Mapping[str, Any]) -> str:
    took = "" if step["ended"] is None else f" {step['ended'] - step['started']:.1f} s"
    evidence = step["evidence"] or {}
    failed = "".join(f"; {name}: {why}" for name, why in evidence.get("failed", {}).items())
    return f"{step['name']} {step['state']}{took}: {evidence.get('error') or step['why']}{failed}"


def _status(data: Mapping[str, Any]) -> dict[str, Any]:
    """The status without what is empty, an unfinished run in few lines."""
    said = {key: value for key, value in data.items() if value not in ([], {})}
    if data["unfinished"]:
        kept = ("message", "wished", "approval", "next")
        said["unfinished"] = {
            f"run {run['id']}": {
                "what": f"{run['what']}, {run['state']}, begun {utc(run['started'])} by "
                f"{run['holder']} on {run['host']}",
                **{key: run[key] for key in kept if run.get(key)},
            }
            for run in data["unfinished"]
        }
    return said


def run_line(run: Mapping[str, Any]) -> str:
    """A run in one line of the history."""
    took = "" if run["ended"] is None else f", {run['ended'] - run['started']:.0f} s"
    said = f". {run['message']}" if run.get("message") else ""
    return f"{run['id']} {utc(run['started'])} {run['what']}: {run['state']}{took}, by " + (
        f"{run['holder']}{said}"
    )


def utc(seconds: float) -> str:
    """A time as text that reads the same everywhere."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
