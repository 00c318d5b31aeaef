"""Show certificates as a table."""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"valid": "green", "failed": "red", "revoked": "red", "damaged": "red"}
UNKNOWN = "yellow"


def show_certificates(data: Mapping[str, Any], stream: TextIO) -> None:
    """Write the certificates; nothing, unless the data has them."""
    if "certificates" not in data:
        return
    console = Console(file=stream, width=None if stream.isatty() else 160, highlight=False)
    if not data["certificates"]:
        console.print("there is no certificate; `salt-run upgrade.certify` makes one", markup=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("id", "subject", "profiles", "age", "state", "by", "message"):
        table.add_column(heading, overflow="fold")
    for one in data["certificates"]:
        table.add_row(
            str(one["id"]),
            Text(one["subject"]),
            Text(", ".join(one["profiles"])),
            one["age"],
            Text(one["state"], COLOURS.get(one["state"], UNKNOWN)),
            Text(one["by"]),
            Text(one["message"]),
        )
    console.print(table)
