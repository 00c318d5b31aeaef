"""Show a plan as tables: the policy in force, then each farm's steps with their capacity."""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

MANY = 3  # farms; of more than that, those like the one before are not shown step by step


def show_plan(data: Mapping[str, Any], stream: TextIO) -> None:
    """Write a plan; nothing, unless the data is a plan."""
    if "changes" not in data:
        return
    wide = None if stream.isatty() else 160
    console = Console(file=stream, width=wide, highlight=False)
    for site, policy in data.get("policy", {}).items():
        _policy(console, site, policy)
    shown: dict[str, Any] = {}
    farms = data.get("farms", ())
    for farm in farms:
        alike = len(farms) > MANY and _shape(farm) == shown.get(farm["site"])
        shown[farm["site"]] = _shape(farm)
        _farm(console, farm, alike)


def _policy(console: Console, site: str, policy: Mapping[str, Any]) -> None:
    changed = policy["overridden"]
    shown = ", ".join(
        f"{key} {value}" + (f" (pillar: {changed[key]})" if key in changed else "")
        for key, value in policy["in_force"].items()
        if key not in ("gates", "windows", "freezes") and value not in ([], (), None, "")
    )
    gates = ", ".join(f"{key} {value}" for key, value in policy["in_force"]["gates"].items())
    console.print(Text(f"policy of {site}", "bold"))
    console.print(f"  {shown}", markup=False)
    console.print(f"  gates: {gates}", markup=False)
    if policy["closed"]:
        console.print(Text(f"  closed now: {policy['closed']}", "red"))
    console.print()


def _shape(farm: Mapping[str, Any]) -> Any:
    """What makes the steps of two farms the same to a reader."""
    steps = farm.get("steps", ())
    return [(step["step"], step["capacity"]) for step in steps]


def _farm(console: Console, farm: Mapping[str, Any], alike: bool) -> None:
    console.print(Text(f"{farm['site']} {farm['farm']} to {farm['release']}", "bold"))
    console.print(f"  now: {farm['now']}", markup=False)
    for reason in farm.get("refused", ()):
        console.print(Text(f"  refused: {reason}", "red"))
    if "load_without" in farm:
        console.print(f"  load: the other farms would be used at {farm['load_without']}")
    if farm.get("steps") and alike:
        console.print("  the same steps and capacities as the farm above")
    elif farm.get("steps"):
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for heading in ("  step", "capacity", "at most", "where", "why"):
            table.add_column(heading, overflow="fold")
        for step in farm["steps"]:
            cells = (step["capacity"], step["at_most"], step["targets"], step["why"])
            table.add_row(f"  {step['step']}", *cells)
        console.print(table)
    if "end" in farm:
        console.print(f"  then: {farm['end']}", markup=False)
    if "approval" in farm:
        console.print(Text(f"  then it waits for an approval {farm['approval']}", "yellow"))
    for name, why in farm.get("left_out", {}).items():
        console.print(Text(f"  left out: {name} {why}", "yellow"))
    console.print()
