"""The states of versioned trees: what to report and which function of the module to call."""

from collections.abc import Callable, Mapping
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.store import check_version


class States:
    """The states over one execution module.

    module
        ``php_version`` or ``webapp``.
    salt
        The execution modules.
    test
        Only say what would change (``test=True``).
    """

    def __init__(
        self, module: str, salt: Mapping[str, Callable[..., Any]], test: bool = False
    ) -> None:
        self._module = module
        self._salt = salt
        self._test = test

    def installed(self, name: str, digest: str | None, source: str | None) -> dict[str, Any]:
        """A version is there and sound."""

        def change() -> dict[str, Any] | None:
            if self._test and name not in self._call("list"):
                return {"old": None, "new": name}
            if self._test:
                self._call("verify", name, digest)
                return None
            done = self._call("install", name, source=source, digest=digest)
            return {"old": None, "new": name} if done["result"] == "installed" else None

        return self._state(name, change, "installed", "is installed")

    def initialised(self, name: str) -> dict[str, Any]:
        """Some version is active."""

        def change() -> dict[str, Any] | None:
            if self._call("current") is not None:
                return None
            if not self._test:
                self._call("initialise", name)
            return {"old": None, "new": name}

        return self._state(name, change, "made active", "or another version is active")

    def active(self, name: str) -> dict[str, Any]:
        """This version is active, and runs."""

        def change() -> dict[str, Any] | None:
            if self._test:
                old = self._call("current")
                return None if old == name else {"old": old, "new": name}
            done = self._call("activate", name)
            return {"old": done["old"], "new": name} if done["changed"] else None

        return self._state(name, change, "activated", "is active")

    def absent(self, name: str, force: bool) -> dict[str, Any]:
        """A version is not there."""

        def change() -> dict[str, Any] | None:
            there = name in self._call("list") if self._test else self._call("remove", name, force)
            return {"old": name, "new": None} if there else None

        return self._state(name, change, "removed", "is not there")

    def _call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        return self._salt[f"{self._module}.{function}"](*args, **kwargs)

    def _state(
        self, name: str, change: Callable[[], dict[str, Any] | None], done: str, fine: str
    ) -> dict[str, Any]:
        state: dict[str, Any] = {"name": name, "changes": {}, "result": True, "comment": ""}
        try:
            check_version(name)
            changes = change()
        except WebfarmError as error:
            return {**state, "result": False, "comment": str(error)}
        except Exception as error:  # an execution module of another library instance, or of Salt
            return {**state, "result": False, "comment": f"{type(error).__name__}: {error}"}
        if changes is None:
            return {**state, "comment": f"{self._module} {name} {fine}"}
        state["changes"] = {self._module: changes}
        if self._test:
            return {
                **state,
                "result": None,
                "comment": f"{self._module} {name} would be {done}",
            }
        return {**state, "comment": f"{self._module} {name} was {done}"}
