"""No snapshots: what a server answers whose pillar names no provider."""

from typing import Any, NoReturn

from webfarm.snapshots.model import SnapshotError, check_name


class NoSnapshots:
    """Takes nothing, and says so when something is to be restored."""

    def space(self) -> dict[str, Any]:
        return {"provider": "none", "ok": True, "free_percent": None, "why": ""}

    def take(self, name: str) -> dict[str, Any]:
        check_name(name)
        return {"provider": "none"}

    def snapshots(self) -> list[dict[str, Any]]:
        return []

    def aside(self) -> list[dict[str, Any]]:
        return []

    def restore(self, name: str) -> NoReturn:
        check_name(name)
        raise SnapshotError(
            f"there are no snapshots here, so {name} cannot be restored; nothing was changed."
            " Install the former packages by hand; for the next time set webfarm:snapshots:provider"
            " to btrfs or lvm, see docs/snapshots.md"
        )

    def carry(self) -> dict[str, Any]:
        return {"provider": "none"}

    def waiting(self) -> None:
        return None

    def restored(self) -> None:
        return None

    def drop(self, name: str) -> dict[str, Any]:
        return {"name": check_name(name), "dropped": False}

    def expire(self) -> dict[str, Any]:
        return {"dropped": []}
