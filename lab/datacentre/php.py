"""PHP trees for the release store: Debian's own binaries, made to run from any folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .places import CACHE
from .terminal import LabError, phase, run

RELEASED_TOGETHER = ("fpm", "cli", "common", "opcache", "mysql")
EXTENSIONS_APART = ("memcached", "igbinary", "msgpack")

LOAD_ORDER = (
    ("10", "opcache", "zend_extension=opcache.so"),
    ("10", "mysqlnd", "extension=mysqlnd.so"),
    ("10", "pdo", "extension=pdo.so"),
    ("20", "ctype", "extension=ctype.so"),
    ("20", "fileinfo", "extension=fileinfo.so"),
    ("20", "igbinary", "extension=igbinary.so"),
    ("20", "iconv", "extension=iconv.so"),
    ("20", "msgpack", "extension=msgpack.so"),
    ("20", "mysqli", "extension=mysqli.so"),
    ("20", "pdo_mysql", "extension=pdo_mysql.so"),
    ("20", "posix", "extension=posix.so"),
    ("20", "sockets", "extension=sockets.so"),
    ("20", "tokenizer", "extension=tokenizer.so"),
    ("25", "memcached", "extension=memcached.so"),
)

WRAPPER = """\
#!/bin/sh
# Run this tree's own PHP with this tree's own extensions, wherever the tree lies.
tree=$(dirname "$(dirname "$(readlink -f "$0")")")
export PHP_INI_SCAN_DIR="$tree/etc/conf.d"
exec "$tree/{binary}" -c "$tree/etc/php.ini" -d extension_dir="$tree/lib" "$@"
"""

PHP_INI = """\
[PHP]
expose_php = Off
display_errors = Off
log_errors = On
memory_limit = 128M
opcache.enable = 1
opcache.memory_consumption = 64
"""


def upstream(package_version: str) -> str:
    """``8.2.36-1~deb12u1`` -> ``8.2.36``, which is what PHP calls itself."""
    return package_version.split(":")[-1].rsplit("-", 1)[0].split("+")[0]


def offered() -> dict[str, str]:
    """PHP version -> package version, as apt offers them now, oldest first."""
    table = run(["apt-cache", "madison", "php8.2-fpm"]).stdout
    found: dict[str, str] = {}
    for line in table.splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) >= 3 and "Packages" in columns[2]:
            # madison lists the newest package first
            found.setdefault(upstream(columns[1]), columns[1])
    key = lambda version: [int(number) for number in re.findall(r"\d+", version)]  # noqa: E731
    return {version: found[version] for version in sorted(found, key=key)}


def build() -> dict[str, Path]:
    """PHP version -> tree, for the two newest that apt offers, oldest first; made when missing."""
    versions = dict(list(offered().items())[-2:])
    if not versions:
        raise LabError(
            "apt offers no php8.2-fpm: run apt-get update, and see /etc/apt/sources.list*"
        )
    trees = {}
    for version, package_version in versions.items():
        tree = CACHE / "php" / version
        if not tree.exists():
            with phase(f"PHP {version}: tree from Debian's packages"):
                _build(tree, package_version)
        trees[version] = tree
    return trees


def _build(tree: Path, package_version: str) -> None:
    work = tree.with_name(f".partial-{tree.name}")
    shutil.rmtree(work, ignore_errors=True)
    debs, unpacked, made = work / "debs", work / "unpacked", work / "tree"
    for folder in (debs, made / "bin", made / "sbin", made / "lib", made / "etc" / "conf.d"):
        folder.mkdir(parents=True)
    packages = [f"php8.2-{part}={package_version}" for part in RELEASED_TOGETHER]
    packages += [f"php8.2-{part}" for part in EXTENSIONS_APART]
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *packages], cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        run(["dpkg", "-x", deb, unpacked])
    (made / "usr").mkdir()
    for source, target in (("usr/sbin/php-fpm8.2", "usr/php-fpm"), ("usr/bin/php8.2", "usr/php")):
        shutil.copy2(unpacked / source, made / target)
    for extension in sorted((unpacked / "usr/lib/php").glob("2*/*.so")):
        shutil.copy2(extension, made / "lib" / extension.name)
    for priority, name, line in LOAD_ORDER:
        if not (made / "lib" / f"{name}.so").exists():
            raise LabError(f"Debian's PHP packages {package_version} have no {name}.so")
        (made / "etc/conf.d" / f"{priority}-{name}.ini").write_text(f"{line}\n")
    (made / "etc/php.ini").write_text(PHP_INI)
    for path, binary in (("sbin/php-fpm", "usr/php-fpm"), ("bin/php", "usr/php")):
        wrapper = made / path
        wrapper.write_text(WRAPPER.format(binary=binary))
        wrapper.chmod(0o755)
    made.rename(tree)
    shutil.rmtree(work)
