"""The Debian mirror that this host's own apt uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .terminal import run

SUITE = "bookworm"
FALLBACK = {
    SUITE: "http://deb.debian.org/debian",
    f"{SUITE}-security": "http://deb.debian.org/debian-security",
}


def _deb822(text: str) -> Iterator[tuple[str, str]]:
    for stanza in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.setdefault(name, []).extend(line.split())
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.split()
        if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
            continue
        for address in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield suite, address


def _one_line(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        if not line.startswith("deb "):
            continue
        rest = line[4:].strip()
        if rest.startswith("["):
            rest = rest.partition("]")[2].strip()
        words = rest.split()
        if len(words) >= 2:
            yield words[1], words[0]


def mirrors(etc_apt: Path = Path("/etc/apt")) -> dict[str, str]:
    """Suite -> address, for the suites that the base image is made of."""
    found: dict[str, str] = {}
    for path in sorted(etc_apt.glob("sources.list.d/*.sources")):
        for suite, address in _deb822(path.read_text()):
            found.setdefault(suite.rstrip("/"), address)
    for path in [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*.list"))]:
        if path.exists():
            for suite, address in _one_line(path.read_text()):
                found.setdefault(suite.rstrip("/"), address)
    return {suite: found.get(suite, address).rstrip("/") for suite, address in FALLBACK.items()}


def sources_list() -> str:
    return "".join(f"deb {address} {suite} main\n" for suite, address in mirrors().items())


def proxy_configuration() -> str:
    """The host's apt proxy settings, for the apt in a chroot."""
    dump = run(["apt-config", "dump"]).stdout
    return "".join(
        f"{line}\n"
        for line in dump.splitlines()
        if line.startswith("Acquire::") and "proxy" in line.lower()
    )
