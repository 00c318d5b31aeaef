"""Inside the copy of Debian: answer a line of JSON with a line of JSON until there are no more."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import salt.config
import salt.loader

REPO = Path(__file__).parents[2]
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
started: list[subprocess.Popen[bytes]] = []
groups: list[Path] = []


def modules(pillar: dict[str, Any], home: str) -> Any:
    """Salt's loader over this tree."""
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts.update(
        id="site1-farm1-ws1",
        root_dir=f"{home}/salt",
        cachedir=f"{home}/salt/cache",
        extension_modules=f"{home}/salt/extmods",
        module_dirs=[str(REPO)],
        webfarm_holds="/var/lib/webfarm/holds",
        grains={"os_family": "Debian"},
        pillar=pillar,
    )
    return salt.loader.minion_mods(opts)


def group(unit: str) -> Path:
    """A control group named like a unit, where systemd has its own."""
    base = Path("/sys/fs/cgroup")
    base = base / "systemd" if (base / "systemd").is_dir() else base
    path = base / f"webfarm-test-{os.getpid()}-{os.stat('/run').st_dev}" / unit
    path.mkdir(parents=True)
    groups.extend((path, path.parent))
    return path


def answer(question: dict[str, Any], home: str) -> Any:
    if "start" in question:
        child = subprocess.Popen(question["start"], stdin=subprocess.DEVNULL)
        started.append(child)
        if question["unit"]:
            (group(question["unit"]) / "cgroup.procs").write_text(str(child.pid))
        return child.pid
    if "command" in question:
        done = subprocess.run(
            question["command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return {"status": done.returncode, "output": done.stdout}
    key = json.dumps(question["pillar"])
    if key not in loaders:
        loaders.clear()
        loaders[key] = modules(question["pillar"], home)
    return loaders[key][question["function"]](*question["args"], **question["kwargs"])


loaders: dict[str, Any] = {}
try:
    for line in sys.stdin:
        try:
            said: dict[str, Any] = {"return": answer(json.loads(line), sys.argv[1])}
        except Exception as error:
            said = {"error": str(error), "type": type(error).__name__}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
finally:
    for child in started:
        child.kill()
        child.wait()
    for folder in groups:
        with contextlib.suppress(OSError):
            folder.rmdir()
