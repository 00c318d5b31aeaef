"""The pillar's part ``snapshots``: which provider a site's servers have, and what it keeps."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from webfarm.shape import Model

# what a root that goes back must not forget: the rollouts that it has seen, who the minion is,
# and what happened
PRESERVE = ["/var/lib/webfarm/holds", "/etc/salt/pki/minion", "/var/log/journal"]
DISPOSABLE = ["/tmp", "/var/tmp"]


def _folder(value: str) -> str:
    if not value.startswith("/") or not value.isascii() or not value.isprintable():
        raise ValueError("must be an absolute path of printable ASCII")
    if len(value) > 1000 or str(PurePosixPath(value)) != value or value.startswith("//"):
        raise ValueError("must be written without a final '/', '//' or '.'")
    if value == "/" or ".." in value.split("/"):
        raise ValueError("must be below the root, without '..'")
    return value


Folder = Annotated[str, AfterValidator(_folder)]
Folders = Annotated[list[Folder], Field(max_length=100)]
Percent = Annotated[float, Field(ge=0, le=90)]


class Snapshots(Model):
    """How the servers' roots are kept before a change, and for how long."""

    provider: Literal["none", "btrfs", "lvm"] = "none"
    keep: Annotated[int, Field(ge=1, le=100)] = 5
    keep_aside: Annotated[int, Field(ge=0, le=100)] = 2
    max_age_days: Annotated[float, Field(gt=0, le=3650)] = 14
    min_free_percent: Percent = 15
    preserve: Folders = PRESERVE
    disposable: Folders = DISPOSABLE
    # btrfs
    mount: Folder = "/.webfarm"
    subvolume: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9@][A-Za-z0-9_@-]{0,31}$")] = (
        "@"
    )

    # lvm
    volume: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,47}$"
            ),
        ]
        | None
    ) = None
    size_percent: Annotated[int, Field(ge=1, le=100)] = 20

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.provider == "lvm" and self.volume is None:
            raise ValueError("provider lvm needs `volume: GROUP/NAME`, the root's logical volume")
        for path in self.preserve:
            if covers(path, self.mount) or covers(self.mount, path):
                raise ValueError(f"preserve {path} and mount {self.mount} lie in one another")
            if any(path != other and covers(other, path) for other in self.preserve):
                raise ValueError(f"preserve {path} lies in another folder that is preserved")
        if len(set(self.preserve)) != len(self.preserve):
            raise ValueError("preserve names a folder twice")
        return self


def covers(folder: str, path: str) -> bool:
    """``path`` is ``folder`` or lies in it."""
    return path == folder or path.startswith(f"{folder}/")
