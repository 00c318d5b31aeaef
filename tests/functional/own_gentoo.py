"""A Gentoo machine in a prefix of its own: the real Portage, its configuration and its packages.

Portage from pip takes the prefix of the ``python3`` that runs it for its EPREFIX, so a machine is
a virtual environment that sees the tests' own site-packages.
"""

import http.server
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import salt.config
import salt.loader
from loopback import NET

REPO = Path(__file__).parents[2]
MAKE_DEFAULTS = """\
ARCH="amd64"
ACCEPT_KEYWORDS="amd64"
ELIBC="glibc"
KERNEL="linux"
CHOST="x86_64-pc-linux-gnu"
"""
QUIET = (
    "-merge-sync -sandbox -usersandbox -userpriv -network-sandbox -pid-sandbox -ipc-sandbox"
    " -mount-sandbox"
)


class Ebuilds:
    """A repository of small ebuilds with a profile, shared by all machines."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "repo"
        for path, text in {
            "metadata/layout.conf": "masters =\nthin-manifests = true\nsign-manifests = false\n",
            "profiles/repo_name": "tests\n",
            "profiles/categories": "app-misc\ndev-lang\ndev-libs\n",
            "profiles/arch.list": "amd64\n",
            "profiles/profiles.desc": "amd64 base stable\n",
            "profiles/base/eapi": "8\n",
            "profiles/base/make.defaults": MAKE_DEFAULTS,
        }.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def add(self, package: str, version: str, body: str = "", depends: str = "") -> None:
        """An ebuild; without a body it installs a file with its version and CFLAGS."""
        name = package.partition("/")[2]
        body = body or (
            "src_install() {\n"
            '    echo "${PV} ${CFLAGS}" > text || die\n'
            f"    insinto /usr/share/{name}; doins text\n"
            "}\n"
        )
        self.write(
            f"{package}/{name}-{version}.ebuild",
            f'EAPI=8\nDESCRIPTION="a test"\nHOMEPAGE="https://shop.example"\nSLOT="0"\n'
            f'KEYWORDS="amd64"\nLICENSE=""\nS="${{WORKDIR}}"\nRDEPEND="{depends}"\n{body}',
        )


class Gentoo:
    """A machine; ``id`` is its minion id."""

    def __init__(self, home: Path, id: str, ebuilds: Ebuilds) -> None:
        self.id = id
        self.home = home / id
        self.prefix = self.home / "prefix"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", self.prefix],
            check=True,
            capture_output=True,
        )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = self.prefix / "lib" / version / "site-packages"
        (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (self.prefix / "lib/portage").symlink_to(Path(sys.prefix) / "lib/portage")
        shared = self.prefix / "share/portage/config"
        shared.mkdir(parents=True)
        for file in ("make.globals", "sets"):
            (shared / file).symlink_to(Path(sys.prefix) / "share/portage/config" / file)
        (shared / "repos.conf").write_text("")  # the usual one names Gentoo's own repository
        for tool in ("emerge", "emaint"):
            text = (Path(sys.prefix) / "bin" / tool).read_text().partition("\n")[2]
            (self.prefix / "bin" / tool).write_text(f"#!{self.prefix}/bin/python3\n{text}")
            (self.prefix / "bin" / tool).chmod(0o755)
        etc = self.prefix / "etc/portage"
        (etc / "repos.conf").mkdir(parents=True)
        (etc / "make.profile").symlink_to(ebuilds.folder / "profiles/base")
        (etc / "repos.conf/tests.conf").write_text(
            f"[DEFAULT]\nmain-repo = tests\n[tests]\nlocation = {ebuilds.folder}\n"
        )
        for folder in ("tmp", "distfiles", "var/lib/portage"):
            (self.prefix / folder).mkdir(parents=True, exist_ok=True)
        (etc / "make.conf").write_text(
            f'FEATURES="{QUIET}"\nPORTAGE_USERNAME="root"\nPORTAGE_GRPNAME="root"\n'
            f'DISTDIR="{self.prefix}/distfiles"\nPORTAGE_TMPDIR="{self.prefix}/tmp"\n'
            f'PKGDIR="{self.prefix}/binpkgs"\nCONFIG_PROTECT="/etc"\n'
            'BINPKG_COMPRESS="gzip"\nFETCHCOMMAND="curl -fsS -o \\${DISTDIR}/\\${FILE} \\${URI}"\n'
            'RESUMECOMMAND="curl -fsS -C - -o \\${DISTDIR}/\\${FILE} \\${URI}"\n'
        )

    def portage(self, **more: Any) -> dict[str, Any]:
        """The pillar's ``webfarm:packages`` for this machine."""
        return {
            "manager": "portage",
            "portage": {
                "bin": f"{self.prefix}/bin",
                "config": f"{self.prefix}/etc/portage",
                "packages": str(self.home / "binhost"),
                "cache": str(self.home / "cache"),
                **more,
            },
        }

    def call(self, function: str, *args: Any, pillar: Mapping[str, Any], **kwargs: Any) -> Any:
        """Call a function of ``webfarm_packages`` by Salt's loader."""
        modules = salt.loader.minion_mods(self._opts(pillar))
        return modules[f"webfarm_packages.{function}"](*args, **kwargs)

    def state(self, name: str, pillar: Mapping[str, Any], test: bool = False, **kwargs: Any) -> Any:
        """Apply a state of ``webfarm_packages``."""
        opts = self._opts(pillar) | {"test": test}
        states = salt.loader.states(opts, salt.loader.minion_mods(opts), {}, None)
        return states[f"webfarm_packages.{name}"]("a name", **kwargs)

    def _opts(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        opts: dict[str, Any] = salt.config.DEFAULT_MINION_OPTS.copy()
        opts.update(
            id=self.id,
            root_dir=str(self.home / "salt"),
            cachedir=str(self.home / "salt/cache"),
            extension_modules=str(self.home / "salt/extmods"),
            module_dirs=[str(REPO)],
            webfarm_holds=str(self.home / "holds"),
            grains={"os_family": "Gentoo"},
            pillar={"webfarm": pillar},
        )
        return opts

    def file(self, path: str) -> Path:
        """A file of the machine."""
        return self.prefix / path.lstrip("/")


class Web:
    """Serve a folder over HTTP, as nginx does on a preproduction server."""

    def __init__(self, folder: Path, host: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"{NET}.8.{host}"
        handler = partial(_Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer((self.address, 0), handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
