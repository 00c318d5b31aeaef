"""The release store on the master: publish versions of PHP and of the webapp, list and verify them.

The store's folder is ``/srv/webfarm/store``, or what the master's configuration gives as
``webfarm_store``.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import manifest, store
from webfarm.errors import WebfarmError
from webfarm.packages import php_tree

__virtualname__ = "store"
__func_alias__ = {"list_": "list"}


def __virtual__() -> str:
    return __virtualname__


def _store() -> store.Store:
    return store.Store(__opts__.get("webfarm_store", store.ROOT))  # type: ignore[name-defined]


def add(kind: str, version: str, path: str) -> dict[str, Any]:
    """Publish a copy of a tree as a version; the same content again changes nothing, another
    content is refused.

    kind
        ``php`` or ``webapp``.
    version
        The version's name. A number needs two pairs of quotes, ``"'8.10'"``: Salt would read 8.1.
    path
        The absolute path of the tree on the master.

    CLI Example:

    .. code-block:: bash

        salt-run store.add webapp "'2'" /root/build/webapp
    """
    return asdict(_store().add(kind, version, path))


def add_export(version: str, url: str, archive: str, digest: str) -> dict[str, Any]:
    """Publish a PHP tree that a preproduction server has exported, see
    ``webfarm_packages.export_php``, whose answer has these values.

    version
        The version's name.
    url
        Where the tree is served as a tar file.
    archive
        That file's digest, ``sha256:HEX``.
    digest
        The tree's digest; another one is refused before anything is published.

    CLI Example:

    .. code-block:: bash

        salt-run store.add_export 8.2.36 http://10.77.0.51:8680/_trees/php-8.2.36.tar sha256:… …
    """
    store.check_version(version)
    with tempfile.TemporaryDirectory(prefix="webfarm-export-") as folder:
        tree = php_tree.fetch(url, archive, Path(folder))
        seen = manifest.of(tree, normalise=True).digest
        if seen != digest:
            raise WebfarmError(
                f"the tree of {url} has the digest {seen}, expected {str(digest)[:80]!a}; nothing"
                " was published"
            )
        return asdict(_store().add("php", version, str(tree)))


def list_() -> dict[str, dict[str, str]]:
    """Return the published versions with their digests: ``{"php": {version: digest}, "webapp":
    {…}}``.

    CLI Example:

    .. code-block:: bash

        salt-run store.list
    """
    return _store().list()


def digest(kind: str, version: str) -> str:
    """Return the digest of a published version: the sha256 of its manifest.

    CLI Example:

    .. code-block:: bash

        salt-run store.digest php 8.2.36
    """
    return _store().digest(kind, version)


def verify(kind: str, version: str) -> bool:
    """Read a version's whole tree; True when it is what was published, an error that names the
    files when not.

    CLI Example:

    .. code-block:: bash

        salt-run store.verify php 8.2.36
    """
    differences = _store().verify(kind, version)
    if differences:
        raise WebfarmError(
            f"{kind} {version} in the store is damaged: {'; '.join(differences[:20])}; servers"
            f" refuse it. Remove it (`salt-run store.remove {kind} {version}`) and add it again"
            " from its source"
        )
    return True


def remove(kind: str, version: str) -> bool:
    """Take a version out of the store; servers keep what they have installed.

    True when there was one.
        CLI Example:

        .. code-block:: bash

            salt-run store.remove php 8.2.32
    """
    return _store().remove(kind, version)
