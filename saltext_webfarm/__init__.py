"""Tell Salt's loader where the folders of this extension are."""

from pathlib import Path

_HERE = Path(__file__).parent


def loader_dirs() -> dict[str, list[str]]:
    """Map Salt's loader types to folders, e.g. ``{"modules": [".../saltext/webfarm/modules"]}``."""
    return {
        folder.name: [str(folder)]
        for folder in _HERE.iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
    }
