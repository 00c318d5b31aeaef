"""Choose the provider of snapshots that the pillar names."""

from webfarm.snapshots.btrfs import Btrfs
from webfarm.snapshots.lvm import Lvm
from webfarm.snapshots.model import Provider
from webfarm.snapshots.none import NoSnapshots
from webfarm.snapshots.settings import Snapshots


def provider(settings: Snapshots) -> Provider:
    """The provider of this machine's root."""
    if settings.provider == "btrfs":
        return Btrfs(settings)
    if settings.provider == "lvm":
        return Lvm(settings)
    return NoSnapshots()
