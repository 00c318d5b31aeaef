"""Run a PHP web cluster behind two layers of HAProxy, upgrade it without losing a request.

The library under Salt's loader-facing files. It is imported as ``webfarm`` by either delivery
path: synced from the file server (``_utils/webfarm``) or installed with the wheel
``saltext.webfarm``.
"""

__version__ = "0.1.0"
