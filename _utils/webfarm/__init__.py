"""Run a PHP web cluster behind two layers of HAProxy, upgrade it without losing a request.

The library under Salt's loader-facing files. It is imported as ``webfarm`` by either delivery
path: synced from the file server (``_utils/webfarm``) or installed with the wheel
``saltext.webfarm``. Each loader-facing file begins with::

    import webfarm

    webfarm.renew(__file__)
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

_HOME = Path(__file__).parent


def _fingerprint() -> tuple[tuple[str, int, int], ...]:
    found = []
    for source in _HOME.rglob("*.py"):
        status = source.stat()
        found.append((str(source.relative_to(_HOME)), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


_LOADED = _fingerprint()


def renew(loader_file: str) -> None:
    """Drop this library from memory when its files have changed since it was imported.

    ``saltutil.sync_all`` replaces the loader's files in a running minion or master, while Python
    keeps the library that it imported before: new modules would run on an old library.

    loader_file
        ``__file__`` of the caller, a module, state, runner … of Webfarm.

    Raises ImportError when the caller was synced but the library comes from somewhere else, that
    is, when Webfarm is also installed with pip, maybe in another version.
    """
    caller = Path(loader_file).resolve()
    synced = caller.parent.parent
    if synced.name == "extmods" and not _HOME.resolve().is_relative_to(synced):
        raise ImportError(
            f"{caller} was synced from the file server, but its library comes from {_HOME}: "
            "Webfarm is installed twice; uninstall saltext.webfarm there or stop syncing it"
        )
    if _fingerprint() != _LOADED:
        for name in [name for name in sys.modules if name.split(".")[0] == __name__]:
            del sys.modules[name]
