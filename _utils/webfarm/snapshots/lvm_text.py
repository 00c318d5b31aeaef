"""Read what LVM's ``lvs`` and ``vgs`` report as JSON; pure."""

import json
from dataclasses import dataclass
from typing import Any

from webfarm.snapshots import model
from webfarm.snapshots.model import Snapshot, SnapshotError
from webfarm.snapshots.settings import Snapshots

PREFIX = "webfarm."  # of the names of our volumes
FIELDS = (
    "lv_name,lv_uuid,lv_size,origin,lv_time,lv_attr,pool_lv,lv_merging,lv_snapshot_invalid,"
    "lv_tags,data_percent,metadata_percent"
)
REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "--binary")


@dataclass(frozen=True)
class Volume:
    """A logical volume; ``pool`` of a thin one, ``used`` the fuller of a pool's two parts."""

    name: str
    uuid: str
    size: int
    origin: str
    at: int
    pool: str
    active: bool
    merging: bool
    invalid: bool
    tags: tuple[str, ...]
    used: float

    @property
    def thin(self) -> bool:
        return bool(self.pool)


@dataclass(frozen=True)
class Group:
    """The root's volume, its snapshots by their names, the roots put aside, and what is free."""

    root: Volume
    snapshots: dict[str, Volume]
    aside: dict[str, Volume]
    pool: Volume | None
    free: int
    size: int

    def merging(self) -> str | None:
        """The snapshot that becomes the root at its next activation, or is becoming it."""
        return next((name for name, one in self.snapshots.items() if one.merging), None)

    def snapshot(self, name: str) -> Volume:
        """The snapshot ``name``, when it can be restored."""
        found = self.snapshots.get(name)
        if found is None:
            known = ", ".join(self.snapshots) or "none"
            raise SnapshotError(
                f"there is no snapshot {name} here; there are: {known}. Nothing was changed"
            )
        if found.invalid:
            raise SnapshotError(
                f"snapshot {name} is full, so it is lost: drop it; a greater"
                " webfarm:snapshots:size_percent lets it hold more changes. Nothing was changed"
            )
        return found

    def space(self, settings: Snapshots) -> dict[str, Any]:
        """What ``space`` answers."""
        if self.pool is not None:
            free = max(0, round(100 * (100 - self.pool.used)))
            return model.judge_space("lvm", free, 100 * 100, settings)
        needed = self.root.size * settings.size_percent // 100
        percent = round(100 * self.free / self.size, 1) if self.size else 0.0
        why = (
            ""
            if self.free >= needed
            else f"the volume group has {self.free} bytes free, a snapshot needs {needed}"
            f" ({settings.size_percent} % of the root); drop old ones:"
            " webfarm_snapshot.expire, webfarm_snapshot.drop NAME"
        )
        return {"provider": "lvm", "ok": not why, "free_percent": percent, "why": why}


def listed(volumes: dict[str, Volume]) -> list[Snapshot]:
    """``volumes`` as snapshots, oldest first."""
    found = [Snapshot(name, one.at, one.size) for name, one in volumes.items()]
    return sorted(found, key=lambda one: (one.at, one.name))


def group(lvs: str, vgs: str, root: str) -> Group:
    """What the two commands reported of the group with the logical volume ``root``."""
    try:
        volumes = [_volume(row) for row in _rows(lvs, "lv")]
        (whole,) = _rows(vgs, "vg")
        free, size = int(whole["vg_free"]), int(whole["vg_size"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SnapshotError(
            f"lvs or vgs reported something else than expected: {ascii(error)[:200]}; nothing was"
            " changed"
        ) from error
    own = next((one for one in volumes if one.name == root), None)
    if own is None:
        raise SnapshotError(
            f"the volume group has no logical volume {root}: correct webfarm:snapshots:volume, see"
            " docs/snapshots.md. Nothing was changed"
        )
    ours = {one.name.removeprefix(PREFIX): one for one in volumes if one.name.startswith(PREFIX)}
    return Group(
        root=own,
        snapshots={
            name: one
            for name, one in ours.items()
            if model.aside_at(name) is None and one.origin == root
        },
        aside={name: one for name, one in ours.items() if model.aside_at(name) is not None},
        pool=next((one for one in volumes if own.pool and one.name == own.pool), None),
        free=free,
        size=size,
    )


def _rows(text: str, kind: str) -> list[dict[str, str]]:
    rows = json.loads(text)["report"][0][kind]
    if not isinstance(rows, list):
        raise ValueError(f"{kind} is no list")
    return rows


def _volume(row: dict[str, str]) -> Volume:
    attributes = row["lv_attr"]
    return Volume(
        name=row["lv_name"].strip("[]"),
        uuid=row["lv_uuid"],
        size=int(row["lv_size"]),
        origin=row["origin"].strip("[]"),
        at=int(row["lv_time"]),
        pool=row["pool_lv"].strip("[]"),
        active=attributes[4] not in "-dXCh",
        merging=row["lv_merging"] == "1" and attributes[0] in "SV-swi",
        invalid=row["lv_snapshot_invalid"] == "1",
        tags=tuple(filter(None, row["lv_tags"].split(","))),
        used=max(float(row[one] or 0) for one in ("data_percent", "metadata_percent")),
    )
