"""Gentoo's package manager on nodes of the lab: the real emerge, a repository of small ebuilds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab_words import Lab

PREFIX = "/opt/portage"
"""The environment in the base image that Portage takes for the root of its system."""

CONFIG = f"{PREFIX}/etc/portage"
REPOSITORY = f"{PREFIX}/srv/ebuilds"
CATEGORY = "app-misc"
TOOL = "webfarm-lab-tool"
ATOM = f"{CATEGORY}/{TOOL}"

HOST = "/srv/webfarm/binhost"
PORT = 8680
UNIT = "lab-binhost"

SETTINGS = {"manager": "portage", "portage": {"bin": f"{PREFIX}/bin", "config": CONFIG}}
"""The pillar's `webfarm:packages` for such nodes."""

# A profile as small as one can be; nothing of the sandboxes, which want a kernel of their own.
PREPARE = f"""\
set -e
mkdir -p {REPOSITORY}/metadata {REPOSITORY}/profiles/lab {CONFIG}/repos.conf
printf 'masters =\\nthin-manifests = true\\n' > {REPOSITORY}/metadata/layout.conf
echo lab > {REPOSITORY}/profiles/repo_name
echo amd64 > {REPOSITORY}/profiles/arch.list
echo {CATEGORY} > {REPOSITORY}/profiles/categories
echo 8 | tee {REPOSITORY}/profiles/eapi > {REPOSITORY}/profiles/lab/eapi
cat > {REPOSITORY}/profiles/lab/make.defaults <<'END'
ARCH="amd64"
ACCEPT_KEYWORDS="amd64"
ELIBC="glibc"
KERNEL="linux"
CHOST="x86_64-pc-linux-gnu"
END
cat > {CONFIG}/make.conf <<'END'
FEATURES="-sandbox -usersandbox -userpriv -network-sandbox -pid-sandbox -ipc-sandbox -mount-sandbox"
PORTAGE_USERNAME="root"
PORTAGE_GRPNAME="root"
DISTDIR="/var/cache/distfiles"
PKGDIR="/var/cache/binpkgs"
PORTAGE_TMPDIR="/var/tmp"
FETCHCOMMAND="curl -fsS -o \\${{DISTDIR}}/\\${{FILE}} \\${{URI}}"
RESUMECOMMAND="curl -fsS -C - -o \\${{DISTDIR}}/\\${{FILE}} \\${{URI}}"
END
mkdir -p /var/cache/distfiles /var/cache/binpkgs {PREFIX}/var/lib/portage
cat > {CONFIG}/repos.conf/lab.conf <<'END'
[DEFAULT]
main-repo = lab
[lab]
location = {REPOSITORY}
auto-sync = no
[gentoo]
disabled = true
location =
END
ln -sfn {REPOSITORY}/profiles/lab {CONFIG}/make.profile
"""
EBUILD = """\
EAPI=8
DESCRIPTION="made by a test of the lab"
HOMEPAGE="https://shop.example"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64"
S="${WORKDIR}"
src_install() {
	printf '#!/bin/sh\\necho %s @WORD@\\n' "${PV}" > tool || die
	newbin tool webfarm-lab-tool
}
"""


class Gentoo:
    """One node that builds, and nodes that only ever get binaries: they have no ebuild."""

    def __init__(self, lab: Lab, builder: str, nodes: Sequence[str]) -> None:
        self.lab = lab
        self.builder = builder
        self.nodes = tuple(nodes)

    def prepare(self) -> None:
        """The smallest profile on every node."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda node: self.lab.sh(node, PREPARE), (self.builder, *self.nodes)))

    def serve(self) -> None:
        """The builder's binary host over HTTP, and every node told of it."""
        public, address = f"{HOST}/public", self.lab.address(self.builder)
        web = f"python3 -m http.server --bind {address} --directory {public} {PORT}"
        self.lab.sh(
            self.builder,
            f"mkdir -p {public} && systemd-run --quiet --collect --unit={UNIT} {web}",
        )
        self._asked((self.builder, *self.nodes), "configure")

    def close(self) -> None:
        """No binary host any more."""
        self.lab.sh(self.builder, f"systemctl stop {UNIT}; rm -rf {HOST}", check=False)

    def publish(self, *words: str) -> None:
        """Build a set for the profile, and publish it."""
        self._asked([self.builder], "build", json.dumps(words))
        self._asked([self.builder], "publish")

    def _asked(self, nodes: Sequence[str], function: str, *arguments: str) -> None:
        said: dict[str, Any] = self.lab.salt(nodes, f"webfarm_packages.{function}", *arguments)
        wrong = {name: said.get(name) for name in nodes if not isinstance(said.get(name), dict)}
        assert not wrong, f"{function}: {wrong}"

    def ebuild(self, version: str, word: str = "") -> str:
        """An ebuild of the tool in the builder's repository; returns its word in a package set."""
        folder = f"{REPOSITORY}/{ATOM}"
        self.lab.sh(self.builder, f"mkdir -p {folder}")
        file = f"{folder}/{TOOL}-{version}.ebuild"
        text = EBUILD.replace("@WORD@", word)
        self.lab.exec(self.builder, "sh", "-c", f"cat > {file}", stdin=text)
        return f"={ATOM}-{version}"

    def says(self, nodes: Sequence[str] = ()) -> dict[str, str]:
        """Node to what the installed tool says, "" where it is not."""
        ask = f"{PREFIX}/usr/bin/{TOOL} 2>/dev/null || true"
        wanted = list(nodes or self.nodes)
        with ThreadPoolExecutor(4) as pool:
            said = pool.map(lambda node: self.lab.sh(node, ask).strip(), wanted)
            return dict(zip(wanted, said, strict=True))
