"""
Packages of the operating system, as states.

.. code-block:: yaml

    webfarm_binhost:
      webfarm_packages.configured: []

    rsync_as_certified:
      webfarm_packages.installed:
        - packages: [rsync]
        - expected: {rsync: {to: 3.2.7-1+deb12u2, digest: "sha256:…"}}
"""

from collections.abc import Callable
from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm.packages import changes

__virtualname__ = "webfarm_packages"


def __virtual__() -> str:
    return __virtualname__


def configured(name: str) -> dict[str, Any]:
    """
    Have this machine use the binary host of its hardware profile. Nothing to do with apt.

    name
        Not used.
    """

    def change(test: bool) -> dict[str, Any]:
        done: dict[str, Any] = _call("configure", test=test)
        return done

    return _state(name, change, "the binary host of this machine's profile is configured")


def installed(name: str, packages: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """
    Have a package set installed, exactly as it was certified; no service is restarted. An upgrade
    of servers in service is ``salt-run upgrade.os``.

    name
        Not used.
    packages
        The package set.
    expected
        ``{name: {"to": version, "digest": "sha256:…"}}`` of everything that may change.
    """

    def change(test: bool) -> dict[str, Any]:
        if not test:
            return dict(_call("install", packages, expected)["changed"])
        found = _call("pretend", packages)["changes"]
        changes.expected(expected)
        return {name: {"from": one["from"], "to": one["to"]} for name, one in found.items()}

    return _state(name, change, "the packages are installed as they were certified")


def _call(function: str, *args: Any, **kwargs: Any) -> Any:
    return __salt__[f"webfarm_packages.{function}"](*args, **kwargs)  # type: ignore[name-defined]


def _state(name: str, change: Callable[[bool], dict[str, Any]], fine: str) -> dict[str, Any]:
    test = bool(__opts__["test"])  # type: ignore[name-defined]
    state: dict[str, Any] = {"name": name, "changes": {}, "result": True, "comment": fine}
    try:
        state["changes"] = change(test)
    except Exception as error:  # an execution module of another library instance, or of Salt
        return {**state, "result": False, "comment": str(error)}
    if state["changes"] and test:
        return {**state, "result": None, "comment": "would be changed"}
    return state
