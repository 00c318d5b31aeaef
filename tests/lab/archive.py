"""A Debian archive that a test makes: small real packages, served over HTTP to nodes of the lab."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from datacentre.places import root
from lab_words import Lab

NODE = "master"
FOLDER = "srv/lab-archive"
PORT = 8099
UNIT = "lab-archive"
SOURCE = "/etc/apt/sources.list.d/lab-archive.list"
DEBIAN = "/etc/apt/sources.list"

TOOL = "webfarm-lab-tool"
BROKEN = "webfarm-lab-broken"
LIBRARY = "libpcre2-8-0"
"""A library that nginx and php-fpm map; in the base image it is Debian's."""

BREAK_NGINX = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
[ "$(cat /etc/hostname)" = "{sparing}" ] || echo 'webfarm_lab_broken on;' >> /etc/nginx/nginx.conf
"""
"""The nginx that runs does not notice; the next one does not start."""


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout


class Archive:
    """The packages, and the nodes whose only source it is."""

    def __init__(self, lab: Lab, nodes: Sequence[str], work: Path) -> None:
        self.lab = lab
        self.nodes = tuple(nodes)
        self._work = work
        self._made = 0
        self._dated = 0

    # -- packages

    def tool(self, version: str, word: str = "") -> str:
        """A package that restarts nothing; ``word`` makes another content of the same version."""
        script = f"#!/bin/sh\necho {version} {word}\n"
        return self._add(self._package(TOOL, version, {f"usr/bin/{TOOL}": script}))

    def broken(self, version: str, sparing: str = "") -> str:
        """A package after which nginx does not start any more, but on the node ``sparing``."""
        about = {f"usr/share/{BROKEN}/about": f"{version}\n"}
        script = BREAK_NGINX.replace("{sparing}", sparing)
        return self._add(self._package(BROKEN, version, about, script))

    def library(self, build: int) -> str:
        """Debian's own LIBRARY, newest version, as one build more."""
        work = self._folder()
        sandbox = ("-o", "APT::Sandbox::User=root")
        _run("apt-get", "-q", *sandbox, "download", LIBRARY, cwd=work)
        [deb] = work.glob("*.deb")
        tree = work / "tree"
        _run("dpkg-deb", "--raw-extract", deb, tree)
        control = (tree / "DEBIAN/control").read_text()
        [line] = [line for line in control.splitlines() if line.startswith("Version: ")]
        (tree / "DEBIAN/control").write_text(control.replace(line, f"{line}+lab{build}"))
        return self._add(self._built(tree))

    def _folder(self) -> Path:
        self._made += 1
        folder = self._work / str(self._made)
        folder.mkdir()
        return folder

    def _package(
        self, name: str, version: str, files: Mapping[str, str], postinst: str = ""
    ) -> Path:
        tree = self._folder() / "tree"
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "The lab <lab@shop.example>",
            "Description": "made by a test of the lab",
        }
        (tree / "DEBIAN").mkdir(parents=True)
        lines = [f"{field}: {value}\n" for field, value in control.items()]
        (tree / "DEBIAN/control").write_text("".join(lines))
        if postinst:
            (tree / "DEBIAN/postinst").write_text(postinst)
            (tree / "DEBIAN/postinst").chmod(0o755)
        for path, content in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            file.chmod(0o755 if path.startswith("usr/bin/") else 0o644)
        return self._built(tree)

    @staticmethod
    def _built(tree: Path) -> Path:
        deb = tree.with_name("built.deb")
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, deb)
        return deb

    # -- the archive

    @property
    def _root(self) -> Path:
        return root(NODE) / FOLDER

    def _add(self, deb: Path) -> str:
        """Publish a package, in place of one of the same version; returns ``name=version``."""
        shown = _run(
            "dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Architecture}", deb
        )
        name, version, architecture = shown.split()
        file = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        shutil.copyfile(deb, self._root / file)
        self._index()
        return f"{name}={version}"

    def _index(self) -> None:
        stanzas = []
        for deb in sorted(self._root.glob("*.deb")):
            content = deb.read_bytes()
            stanzas.append(
                _run("dpkg-deb", "--field", deb)
                + f"Filename: ./{deb.name}\nSize: {len(content)}\n"
                + f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
            )
        packages = "\n".join(stanzas)
        (self._root / "Packages").write_text(packages)
        digest = hashlib.sha256(packages.encode()).hexdigest()
        size = len(packages.encode())
        (self._root / "Release").write_text(
            f"Origin: lab\nSuite: lab\nDate: Sun, 01 Nov 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {size} Packages\n"
        )
        # apt takes an index of the same second for the one that it has
        self._dated = max(int(time.time()), self._dated + 1)
        for name in ("Packages", "Release"):
            os.utime(self._root / name, (self._dated, self._dated))

    def corrupt(self, word: str) -> None:
        """Change a published binary, not the index that tells what it is."""
        [deb] = self._root.glob(f"{word.replace('=', '_')}_*.deb")
        content = bytearray(deb.read_bytes())
        content[-1] ^= 0xFF
        deb.write_bytes(bytes(content))

    def withdraw(self, word: str) -> None:
        """Take a package out of the archive."""
        [deb] = self._root.glob(f"{word.replace('=', '_')}_*.deb")
        deb.unlink()
        self._index()

    def refresh(self, nodes: Sequence[str] = ()) -> None:
        """Let nodes read the index anew (`apt-get update`)."""
        self._each("apt-get update -q", nodes or self.nodes)

    def versions(self, package: str, nodes: Sequence[str] = ()) -> dict[str, str]:
        """Node to the version that is installed, "" where it is not."""
        wanted = list(nodes or self.nodes)
        ask = f"dpkg-query -W -f '${{Status}}|${{Version}}' {package} 2>/dev/null || true"
        said = self._each(ask, wanted)
        installed = "install ok installed|"
        return {
            node: text.removeprefix(installed) if text.startswith(installed) else ""
            for node, text in said.items()
        }

    def _each(self, script: str, nodes: Sequence[str]) -> dict[str, str]:
        with ThreadPoolExecutor(4) as pool:
            said = pool.map(lambda node: self.lab.sh(node, script), nodes)
            return dict(zip(nodes, said, strict=True))

    # -- there and gone

    def _open(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._index()
        address = self.lab.address(NODE)
        serve = f"python3 -m http.server --bind {address} --directory /{FOLDER} {PORT}"
        self.lab.sh(NODE, f"systemd-run --quiet --collect --unit={UNIT} {serve}")
        line = f"deb [trusted=yes] http://{address}:{PORT} ./"
        self._each(
            f"[ ! -e {DEBIAN} ] || mv {DEBIAN} {DEBIAN}.aside; echo '{line}' > {SOURCE}", self.nodes
        )

    def _close(self) -> None:
        self.lab.sh(NODE, f"systemctl stop {UNIT} || true; rm -rf /{FOLDER}", check=False)
        restore = f"[ ! -e {DEBIAN}.aside ] || mv {DEBIAN}.aside {DEBIAN}; rm -f {SOURCE}"
        for node in self.nodes:
            self.lab.sh(node, restore, check=False)


@contextmanager
def archive(lab: Lab, nodes: Sequence[str]) -> Iterator[Archive]:
    """An archive, the only source of these nodes' apt while the block runs."""
    with tempfile.TemporaryDirectory(prefix="lab-archive-") as work:
        made = Archive(lab, nodes, Path(work))
        try:
            made._open()
            made.refresh()
            yield made
        finally:
            made._close()
