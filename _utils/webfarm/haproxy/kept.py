"""What a balancer remembers of the weights' loop, on disk beside the servers' states.

It tells a drain of the loop from one of a hand: HAProxy itself knows only that there is one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.files import write_atomic
from webfarm.haproxy import vector as vector_
from webfarm.haproxy.vector import Vector

FILE = "weights.json"
INTENDED, MADE = "intended", "made"
LOOP = "weights"  # what `drained_by` says of a drain that the loop made


@dataclass
class FarmKept:
    """One farm's part.

    vector
        The last that was taken.
    ours
        Server -> ``intended`` (written before its state is changed) or ``made`` (the loop's drain).
    by_hand
        Servers that somebody made ready although the vector drains them.
    """

    vector: Vector | None = None
    ours: dict[str, str] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)


@dataclass
class Kept:
    """Everything.

    pid
        The worker of HAProxy that the drains were last seen in.
    asked
        Pick map -> farm -> weight, as ``set_farms`` was last told; the loop weighs on top of it.
    damaged
        The file cannot be read; it is left as it is, for a person.
    """

    path: Path
    pid: int = 0
    farms: dict[str, FarmKept] = field(default_factory=dict)
    asked: dict[str, dict[str, int]] = field(default_factory=dict)
    damaged: bool = False
    text: str = ""

    def farm(self, name: str) -> FarmKept:
        """The farm's part; an empty one when there is none."""
        return self.farms.setdefault(name, FarmKept())

    def owns(self, farm: str, server: str) -> bool:
        """The loop made the server's drain."""
        return farm in self.farms and server in self.farms[farm].ours

    def save(self) -> None:
        """Write it down when it has changed; survives a power cut as the old or the new one."""
        text = json.dumps(
            {
                "v": 1,
                "pid": self.pid,
                "farms": {
                    name: {
                        "vector": vector_.plain(one.vector) if one.vector else None,
                        "ours": one.ours,
                        "by_hand": sorted(one.by_hand),
                    }
                    for name, one in sorted(self.farms.items())
                },
                "asked": self.asked,
            },
            sort_keys=True,
        )
        if text != self.text and not self.damaged:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, text + "\n")
            self.text = text


def load(state_file: str) -> Kept:
    """What was written beside ``state_file``; raises :class:`WebfarmError` when it is damaged."""
    path = Path(state_file).with_name(FILE)
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return Kept(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    try:
        return _read(path, json.loads(text), text)
    except (AttributeError, KeyError, TypeError, ValueError, WebfarmError) as error:
        raise _damaged(path, error) from error


def glance(state_file: str) -> Kept:
    """The same for who can do without it: when it is damaged, no drain is the loop's."""
    try:
        return load(state_file)
    except WebfarmError:
        return Kept(Path(state_file).with_name(FILE), damaged=True)


def _read(path: Path, data: Mapping[str, Any], text: str) -> Kept:
    kept = Kept(path, int(data["pid"]), text=text)
    for name, one in data["farms"].items():
        ours = {str(server): str(word) for server, word in one["ours"].items()}
        vector = vector_.parse(one["vector"]) if one["vector"] else None
        kept.farms[name] = FarmKept(vector, ours, set(map(str, one["by_hand"])))
    for name, weights in data["asked"].items():
        kept.asked[name] = {str(farm): int(weight) for farm, weight in weights.items()}
    return kept


def _damaged(path: Path, error: Exception) -> WebfarmError:
    return WebfarmError(
        f"{path} cannot be read ({ascii(str(error))[:120]}): nobody knows which drains are the "
        "loop's. Delete it, then make the servers ready that nobody else has drained "
        "(haproxy_runtime.servers, haproxy_runtime.set_state). Nothing was changed"
    )
