"""Show farms as tables: each server's base, report, estimate, target, what is applied, and why."""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_status(data: Mapping[str, Any], stream: TextIO) -> None:
    """Write the farms of ``rebalance.status``."""
    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    for farm in data.get("farms", ()):
        _farm(console, farm)


def brief(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is left to say when the tables were shown."""
    said = {key: value for key, value in data.items() if key not in ("farms", "freezes")}
    if freezes := data.get("freezes"):
        said["freezes"] = [freeze_line(one) for one in freezes]
    return said


def freeze_line(freeze: Mapping[str, Any]) -> str:
    """A freeze in one line."""
    left = freeze["left"]
    until = "until it is thawed" if left is None else f"{_time(left)} more"
    return f"{freeze['what']}: by {freeze['holder']}, {until}: {freeze['reason']}"


def _farm(console: Console, farm: Mapping[str, Any]) -> None:
    now = farm["now"]
    console.print(Text(f"{farm['site']} {farm['farm']}", "bold"))
    console.print(f"  {_said(farm)}", markup=False)
    if farm["left_alone"]:
        console.print(Text(f"  left alone: {farm['left_alone']}", "yellow"))
    if farm["blind"]:
        console.print(Text("  blind: most of its servers are silent", "yellow"))
    balancers = list(farm["balancers"])
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in (
        "  server",
        "base",
        "report",
        "capacity/s",
        "of median",
        "5xx",
        "target",
        "now",
    ):
        table.add_column(heading, justify="left" if heading == "  server" else "right")
    for name in balancers:
        table.add_column(name)
    table.add_column("why", overflow="fold")
    for name, server in farm["servers"].items():
        table.add_row(*_row(name, server, balancers, now))
    console.print(table)
    for name, said in farm["balancers"].items():
        if said["owes_since"] is not None and now - said["owes_since"] > 1:
            late = f"  {name} has not answered for {_time(now - said['owes_since'])}"
            console.print(Text(late, "red"))
        if said["refused"]:
            console.print(Text(f"  {name} refused: {said['refused']}", "red"))
    console.print()


def _said(farm: Mapping[str, Any]) -> str:
    if farm["epoch"] is None:
        return "nothing was decided yet"
    on = "" if farm["on"] else "; the law is off: base weights"
    return (
        f"epoch {farm['epoch']}, share of new sessions {farm['share']} of {farm['base_share']}{on}"
    )


def _row(name: str, server: Mapping[str, Any], balancers: list[str], now: float) -> list[Any]:
    if "weight" not in server:
        return [f"  {name}", str(server["base"])]
    drained = bool(server["drained"])
    why = server["absent"] or server["held"] or server["why"]
    return [
        f"  {name}",
        str(server["base"]),
        "never" if server["heard"] is None else _time(now - server["heard"]),
        _number(server["capacity"], "{:.1f}"),
        _number(server["ratio"], "{:.2f}"),
        _number(server["errors"], "{:.1%}"),
        _number(server["target"], "{}"),
        Text("drain" if drained else _number(server["weight"], "{}"), "red" if drained else ""),
        *(_applied(server, balancer) for balancer in balancers),
        Text(why),
    ]


def _applied(server: Mapping[str, Any], balancer: str) -> Text:
    found = server["applied"].get(balancer)
    if found is None:
        return Text("?", "yellow")
    state = str(found.get("state", "?"))
    weight = str(found.get("weight", "?"))
    same = found.get("weight") == server["weight"] and (state == "drain") == bool(server["drained"])
    return Text(weight if state == "ready" else f"{weight} {state}", "" if same else "yellow")


def _number(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7000 else f"{seconds / 3600:.0f} h"
