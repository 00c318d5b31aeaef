"""This machine's own Debian as a copy that can be changed: an overlay on ``/``, gone at the end.

The production code runs in it as it is: dpkg, apt and ``/proc`` are the real ones. One process
inside answers calls of Salt's modules. The mounts are in a namespace of its own and its processes
in another, so that nothing of it is left when it ends, however it does.
"""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loopback import NET
from webfarm.errors import WebfarmError

ROOT = Path(__file__).parents[2]
MOUNT = """
set -e
mount -t tmpfs -o size=2g own "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" own "$1/root"
shift_root="$1/root"
mount -t proc own "$shift_root/proc"
mount --rbind /dev "$shift_root/dev"
mount --rbind /sys "$shift_root/sys"
mount -t tmpfs own "$shift_root/run"
mount -t tmpfs own "$shift_root/tmp"
shift
for folder in "$1" "$2" "$3" "$4"; do
    mkdir -p "$shift_root$folder"
    mount --rbind "$folder" "$shift_root$folder"
done
shift 4
exec chroot "$shift_root" "$@"
"""


class Failed(WebfarmError):
    """What a function raised inside."""


class OwnDebian:
    """The copy, with ``home`` (a folder of the test) at the same place inside."""

    def __init__(self, home: Path) -> None:
        mount = home.with_name(home.name + "-root")
        mount.mkdir()
        seen = (home, ROOT, Path(sys.prefix), Path(sys.base_prefix))
        inside = [sys.executable, Path(__file__).with_name("own_debian_inside.py"), home]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", MOUNT, "own"]
            + [str(word) for word in (mount, *seen, *inside)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "_utils")},
        )

    def call(self, function: str, *args: Any, pillar: Mapping[str, Any], **kwargs: Any) -> Any:
        """Call a function of an execution module; raises :class:`Failed`."""
        return self._ask(
            {"function": function, "args": args, "kwargs": kwargs, "pillar": {"webfarm": pillar}}
        )

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command inside and return what it printed."""
        done = self._ask({"command": command})
        assert not ok or done["status"] == 0, done
        return str(done["output"])

    def start(self, *command: str, unit: str = "") -> int:
        """Start a process inside, in the control group of a unit; its id there."""
        return int(self._ask({"start": command, "unit": unit}))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait(20)
            self._process.stdout.close()

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the copy of Debian has ended: {self._process.poll()}"
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{answer['type']}: {answer['error']}")
        return answer["return"]


class Archive:
    """A small archive of packages, made with dpkg-deb and served over HTTP."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "archive"
        self.folder.mkdir()
        self._home = home
        self._written = 1_700_000_000
        handler = partial(_Quiet, directory=str(self.folder))
        self._server = http.server.ThreadingHTTPServer((f"{NET}.9.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"http://{NET}.9.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def make(
        self,
        name: str,
        version: str,
        content: Mapping[str, str | Path] | None = None,
        depends: str = "",
        scripts: Mapping[str, str] | None = None,
        conffiles: Sequence[str] = (),
        fields: str = "",
    ) -> Path:
        """Build a package; call :meth:`index` when all are there.

        content
            Path in the package to its text, or to the file that is copied.
        """
        tree = self._home / "build"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <t@t>\n"
            f"{f'Depends: {depends}' + chr(10) if depends else ''}{fields}Description: a test\n"
        )
        (tree / "DEBIAN/control").write_text(control)
        for script, text in (scripts or {}).items():
            (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\nset -e\n{text}\n")
            (tree / "DEBIAN" / script).chmod(0o755)
        if conffiles:
            (tree / "DEBIAN/conffiles").write_text("".join(f"{path}\n" for path in conffiles))
        for path, text in (content or {f"/usr/share/{name}/text": version}).items():
            file = tree / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, Path):
                shutil.copy(text, file)
            else:
                file.write_text(text)
        deb = self.folder / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "-Zgzip", tree, deb], check=True, capture_output=True
        )
        return deb

    def index(self) -> None:
        """Write the index of what is there."""
        entries = []
        for deb in sorted(self.folder.glob("*.deb")):
            control = subprocess.run(
                ["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True
            ).stdout
            digest = hashlib.sha256(deb.read_bytes()).hexdigest()
            entries.append(
                f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
            )
        index = self.folder / "Packages"
        index.write_text("\n".join(entries))
        # apt takes an index of the same second for the one that it has
        self._written += 1
        os.utime(index, (self._written, self._written))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
