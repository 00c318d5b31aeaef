"""Gentoo's packages by the real emerge: built, published over HTTP, merged from binaries."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.runner
import webfarm
from conftest import EXAMPLE
from own_gentoo import REPO, Ebuilds, Gentoo, Web
from webfarm.errors import WebfarmError

BUILDER, NODE = "pre-r640", "site1-farm1-ws1"
PROFILES = {"r640": {"cflags": "-O2 -march=x86-64"}, "r660": {"flags": ["no_such_flag"]}}
CONF = 'src_install() { echo "${PV}" > wf.conf || die; insinto /etc; doins wf.conf; }\n'
COMPILED = """\
src_compile() {
    echo 'int main(void) { return 0; }' > a.c || die
    gcc ${CFLAGS} a.c -o compiled || die
    echo "hosts ${DISTCC_HOSTS} ${MAKEOPTS}" > options || die
}
src_install() { dobin compiled; insinto /usr/share/compiled; doins options; }
"""


class Site:
    """A preproduction server, its web server, and a node in production."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ebuilds = Ebuilds(home)
        self.builder, self.node = (Gentoo(home, id, self.ebuilds) for id in (BUILDER, NODE))
        self.public = self.builder.home / "binhost/public"
        self.web = Web(self.public, 1)

    def pillar(self, machine: Gentoo, profile: str = "r640", **portage: Any) -> dict[str, Any]:
        pillar = json.loads(json.dumps(EXAMPLE))
        for site in pillar["sites"].values():
            for farm in site["farms"].values():
                for server in farm["servers"].values():
                    server["hw_profile"] = profile
        pillar["hw_profiles"] = PROFILES
        pillar["preproduction"] = {
            "servers": {
                BUILDER: {"address": self.web.address, "hw_profile": "r640"},
                "pre-r660": {"address": "10.77.0.52", "hw_profile": "r660"},
            }
        }
        pillar["packages"] = machine.portage(port=self.web.port, **portage)
        return pillar

    def on_builder(self, function: str, *args: Any, **portage: Any) -> Any:
        pillar = self.pillar(self.builder, **portage)
        return self.builder.call(function, *args, pillar=pillar)

    def on_node(self, function: str, *args: Any, profile: str = "r640", **kwargs: Any) -> Any:
        return self.node.call(function, *args, pillar=self.pillar(self.node, profile), **kwargs)

    def ship(self, *words: str) -> dict[str, Any]:
        """Build and publish; returns what a certificate would record."""
        self.on_builder("build", list(words))
        self.on_builder("publish")
        return certificate(self.on_node("pretend", list(words)))


def certificate(pretended: dict[str, Any]) -> dict[str, Any]:
    return {n: {"to": c["to"], "digest": c["digest"]} for n, c in pretended["changes"].items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    patch = pytest.MonkeyPatch()
    patch.setattr(webfarm, "renew", lambda _: None)
    made = Site(tmp_path_factory.mktemp("gentoo"))
    try:
        made.on_builder("configure")
        made.on_node("configure")
        yield made
    finally:
        made.web.close()
        patch.undo()


def state(site: Site) -> list[str]:
    """Everything that is merged on the node, and its files."""
    roots = (site.node.file("usr"), site.node.file("etc"), site.node.file("var/db/pkg"))
    return sorted(
        f"{path} {path.stat().st_mtime_ns}"
        for root in roots
        for path in root.rglob("*")
        if path.is_file()
    )


def leftovers(site: Site) -> list[Path]:
    """Packages that were fetched and are still there."""
    return [path for path in (site.node.home / "cache").rglob("*") if path.is_file()]


def test_from_an_ebuild_to_a_node_of_the_profile(site: Site) -> None:
    site.ebuilds.add("dev-libs/tiny", "1.0")
    site.ebuilds.add("app-misc/uses", "1.0", depends="dev-libs/tiny")
    built = site.on_builder("build", "app-misc/uses")
    assert sorted(built["built"]) == ["app-misc/uses-1.0", "dev-libs/tiny-1.0"]
    assert site.on_builder("status")["installed"] == {}, "building merges nothing"
    again = site.on_builder("build", "app-misc/uses")
    assert again["built"] == [] and len(again["present"]) == 2
    host = site.on_builder("publish")
    assert host["profile"] == "r640" and len(host["packages"]) == 2
    before = state(site)
    found = site.on_node("pretend", "app-misc/uses")
    assert state(site) == before
    assert found["manager"] == "portage" and found["profile"] == "r640"
    assert {n: (c["from"], c["to"]) for n, c in found["changes"].items()} == {
        "app-misc/uses": (None, "1.0"),
        "dev-libs/tiny": (None, "1.0"),
    }
    assert {c["digest"] for c in found["changes"].values()} == set(host["packages"].values())
    done = site.on_node("install", "app-misc/uses", certificate(found))
    assert done["changed"]["dev-libs/tiny"] == {"from": None, "to": "1.0"}
    assert site.on_node("status")["installed"] == {"app-misc/uses": "1.0", "dev-libs/tiny": "1.0"}
    # compiled with the profile's options, on the preproduction server and nowhere else
    assert site.node.file("usr/share/tiny/text").read_text() == "1.0 -O2 -march=x86-64\n"
    assert site.node.file("var/lib/portage/world").read_text() == "app-misc/uses\n"
    assert leftovers(site) == []
    assert site.on_node("pretend", "app-misc/uses")["changes"] == {}
    assert site.on_node("install", "app-misc/uses", certificate(found))["changed"] == {}
    assert site.on_node("verify") == []
    site.node.file("usr/share/tiny/text").write_text("damaged")
    assert site.on_node("verify") == [
        f"dev-libs/tiny-1.0: {site.node.file('usr/share/tiny/text')} was changed"
    ]


def test_the_certified_version_is_merged_though_there_is_a_newer_one(site: Site) -> None:
    for version in ("1.0", "1.1"):
        site.ebuilds.add("dev-libs/dep", version)
        site.ebuilds.add("app-misc/asks", version, depends="dev-libs/dep")
        site.on_builder("build", [f"=app-misc/asks-{version}", f"=dev-libs/dep-{version}"])
    site.on_builder("publish")
    certified = certificate(site.on_node("pretend", ["=app-misc/asks-1.0", "=dev-libs/dep-1.0"]))
    site.on_node("install", "app-misc/asks", certified)
    installed = site.on_node("status")["installed"]
    assert installed["app-misc/asks"] == installed["dev-libs/dep"] == "1.0"
    assert site.on_node("world")["changes"]["app-misc/asks"]["to"] == "1.1"


def corrupted(site: Site) -> None:
    (package,) = (site.public / "r640").glob("app-misc/bad/*.gpkg.tar")
    data = bytearray(package.read_bytes())
    data[len(data) // 2] ^= 1
    package.unlink()  # the builder has the same file by a hard link
    package.write_bytes(data)


def changed_index(site: Site) -> None:
    index = site.public / "r640/Packages"
    index.write_text(index.read_text().replace("REPO: tests", "REPO: other", 1))


def missing_file(site: Site) -> None:
    for package in (site.public / "r640").glob("app-misc/bad/*.gpkg.tar"):
        package.unlink()


def missing_in_the_index(site: Site) -> None:
    built = site.builder.home / "binhost/build/r640/app-misc/bad"
    built.rename(site.home / "aside")
    site.on_builder("publish")
    (site.home / "aside").rename(built)


def built_again_and_needs_more(site: Site) -> None:
    site.ebuilds.add("dev-libs/more", "1.0")
    site.ebuilds.add("app-misc/bad", "1.0", depends="dev-libs/more")
    pillar = site.pillar(site.builder)
    site.builder.call("build", "app-misc/bad", rebuild=True, pillar=pillar)
    site.on_builder("publish")


@pytest.fixture(scope="module")
def certified(site: Site) -> dict[str, Any]:
    """What was certified of a package that goes bad."""
    site.ebuilds.add("app-misc/bad", "1.0")
    return site.ship("app-misc/bad")


@pytest.mark.parametrize(
    ("becomes", "complaint"),
    [
        (corrupted, r"app-misc/bad 1\.0 (could not be fetched|as fetched is not)"),
        (changed_index, r"r640/Packages does not match webfarm\.json"),
        (missing_file, r"app-misc/bad 1\.0 could not be fetched"),
        (missing_in_the_index, r"no binary packages to satisfy .*app-misc/bad"),
        (
            built_again_and_needs_more,
            r"app-misc/bad 1\.0 is another binary than the certified one.*"
            r"dev-libs/more 1\.0 would be installed too and was not certified",
        ),
    ],
)
def test_what_was_not_certified_is_refused_by_name_with_nothing_changed(
    site: Site, certified: dict[str, Any], becomes: Callable[[Site], None], complaint: str
) -> None:
    before = state(site)
    becomes(site)
    with pytest.raises(WebfarmError, match=complaint) as refused:
        site.on_node("install", "app-misc/bad", certified)
    assert "nothing was changed" in str(refused.value).lower()
    assert state(site) == before
    assert leftovers(site) == []
    site.on_builder("publish")


def test_a_node_of_another_profile_gets_nothing(site: Site, certified: dict[str, Any]) -> None:
    before = state(site)
    with pytest.raises(WebfarmError, match=r"not of hw_profile r660: the CPU lacks no_such_flag"):
        site.on_node("install", "app-misc/bad", certified, profile="r660")
    public = site.public / "r640/webfarm.json"
    text = public.read_text()
    try:
        public.write_text(text.replace('"profile": "r640"', '"profile": "r660"'))
        with pytest.raises(WebfarmError, match=r"is for the profile r660, this machine is of r640"):
            site.on_node("install", "app-misc/bad", certified)
    finally:
        public.write_text(text)
    assert state(site) == before


def test_another_binary_host_is_refused(site: Site, certified: dict[str, Any]) -> None:
    """A package of any other host is not what was certified, however it is named."""
    other = Web(site.public, 2)
    rival = site.node.file("etc/portage/binrepos.conf/rival.conf")
    ours = site.node.file("etc/portage/binrepos.conf/webfarm.conf")
    kept = ours.read_text()
    try:
        rival.write_text(f"[rival]\nsync-uri = http://{other.address}:{other.port}/r640\n")
        ours.unlink()
        with pytest.raises(WebfarmError, match="not from the binary host of the profile r640"):
            site.on_node("install", "app-misc/bad", certified)
    finally:
        rival.unlink()
        ours.write_text(kept)
        other.close()
    assert "app-misc/bad" not in site.on_node("status")["installed"]


def test_a_configuration_file_that_was_edited_stays_and_the_new_one_waits(site: Site) -> None:
    site.ebuilds.add("app-misc/conf", "1.0", CONF)
    site.on_node("install", "app-misc/conf", site.ship("app-misc/conf"))
    file = site.node.file("etc/wf.conf")
    file.write_text("mine\n")
    site.ebuilds.add("app-misc/conf", "2.0", CONF)
    done = site.on_node("install", "app-misc/conf", site.ship("app-misc/conf"))
    assert done["changed"]["app-misc/conf"] == {"from": "1.0", "to": "2.0"}
    (waits,) = done["waiting"]
    assert waits == str(file.with_name("._cfg0000_wf.conf"))
    assert file.read_text() == "mine\n" and Path(waits).read_text() == "2.0\n"
    assert site.on_node("waiting") == [waits]


def test_distcc_and_the_profiles_options_reach_the_compiler(site: Site) -> None:
    site.ebuilds.add("app-misc/compiled", "1.0", COMPILED)
    gcc = site.builder.file("usr/lib/distcc/bin/gcc")
    gcc.parent.mkdir(parents=True)
    log = site.builder.home / "distcc.log"
    gcc.write_text(f'#!/bin/sh\necho "$DISTCC_HOSTS: $*" >> {log}\nexec /usr/bin/gcc "$@"\n')
    gcc.chmod(0o755)
    site.on_builder("build", "app-misc/compiled")
    assert not log.exists()
    pillar = site.pillar(site.builder, distcc=["localhost/2", "10.77.0.52/8"], jobs=5)
    site.builder.call("build", "app-misc/compiled", rebuild=True, pillar=pillar)
    assert log.read_text().startswith("localhost/2 10.77.0.52/8: -O2 -march=x86-64 a.c")


PHP = """\
src_install() {
    local place=/usr/lib64/php8.2
    printf '#!/bin/sh\\necho PHP %s\\n' "${PV}" > php || die
    exeinto ${place}/bin; doexe php; newexe php php-fpm
    insinto ${place}/etc; newins php php.ini
}
"""


def test_a_php_tree_goes_from_an_ebuild_to_the_release_store(site: Site) -> None:
    site.ebuilds.add("dev-lang/php", "8.2.40", PHP)
    site.on_builder("build", "dev-lang/php")
    site.on_builder("publish")
    before = site.on_builder("status")["installed"]
    exported = site.on_builder("export_php", "8.2.40")
    assert exported == site.on_builder("export_php", "8.2.40")
    assert site.on_builder("status")["installed"] == before
    opts = salt.config.DEFAULT_MASTER_OPTS.copy()
    opts.update(
        runner_dirs=[str(REPO / "_runners")],
        webfarm_store=str(site.home / "store"),
        cachedir=str(site.home / "cache-master"),
        root_dir=str(site.home / "master"),
        quiet=True,
    )
    add = salt.runner.Runner(opts).functions["store.add_export"]
    chain = [exported[key] for key in ("version", "url", "archive", "digest")]
    with pytest.raises(WebfarmError, match="not what was exported; nothing was added"):
        add(*chain[:2], "sha256:" + "0" * 64, chain[3])
    with pytest.raises(WebfarmError, match="nothing was published"):
        add(*chain[:3], "0" * 64)
    done = add(*chain)
    assert (done["result"], done["digest"]) == ("added", exported["digest"])
    php = site.home / "store/php/8.2.40/sbin/php-fpm"
    assert subprocess.run([php], capture_output=True, text=True).stdout == "PHP 8.2.40\n"


def test_news_that_nobody_has_read_are_shown(site: Site) -> None:
    site.ebuilds.write(
        "metadata/news/2026-11-20-openssl/2026-11-20-openssl.en.txt",
        "Title: OpenSSL has changed\nAuthor: A <a@shop.example>\nPosted: 2026-11-20\nRevision: 1\n"
        "News-Item-Format: 2.0\n\nRead this.\n",
    )
    site.on_builder("sync")
    assert site.on_builder("news") == [
        {"repo": "tests", "name": "2026-11-20-openssl", "title": "OpenSSL has changed"}
    ]


def test_the_binary_host_is_configured_once(site: Site) -> None:
    file = site.node.file("etc/portage/binrepos.conf/webfarm.conf")
    assert f"sync-uri = http://{site.web.address}:{site.web.port}/r640\n" in file.read_text()
    assert site.on_node("configure") == {}
    kept = file.read_text()
    file.write_text("[webfarm]\n")
    assert site.on_node("configure", test=True)["new"] == kept
    assert file.read_text() == "[webfarm]\n"
    assert site.on_node("configure")["old"] == "[webfarm]\n"
    assert file.read_text() == kept


def test_the_states_say_what_they_would_do_and_do_it(site: Site, certified: dict[str, Any]) -> None:
    pillar = site.pillar(site.node)
    file = site.node.file("etc/portage/binrepos.conf/webfarm.conf")
    kept = file.read_text()
    file.unlink()
    said = site.node.state("configured", pillar, test=True)
    assert said["result"] is None and said["changes"]["new"] == kept and not file.exists()
    said = site.node.state("configured", pillar)
    assert said["result"] is True and said["changes"]["old"] is None and file.read_text() == kept
    assert site.node.state("configured", pillar)["changes"] == {}

    site.ebuilds.add("app-misc/state", "1.0")
    wanted = {"packages": ["app-misc/state"], "expected": site.ship("app-misc/state")}
    changes = {"app-misc/state": {"from": None, "to": "1.0"}}
    said = site.node.state("installed", pillar, test=True, **wanted)
    assert said["result"] is None and said["changes"] == changes
    said = site.node.state("installed", pillar, **wanted)
    assert said["result"] is True and said["changes"] == changes
    wanted["expected"] = {"app-misc/state": {"to": "2.0", "digest": "sha256:" + "0" * 64}}
    said = site.node.state("installed", pillar, **wanted)
    assert said["result"] is False and "app-misc/state" in said["comment"]


def test_a_damaged_binary_host_is_named(site: Site, certified: dict[str, Any]) -> None:
    site.on_builder("publish")
    assert site.on_builder("verify") == []
    package = next((site.public / "r640").glob("*/*/*.gpkg.tar"))
    package.unlink()
    package.write_text("damaged")
    assert site.on_builder("verify") == [f"{package} was changed"]
    site.on_builder("publish")
    assert site.on_builder("verify") == []


@pytest.mark.parametrize(
    ("word", "complaint"),
    [("app-misc/none-such", "none-such"), ("--unmerge", "no package"), ("@world", "no package")],
)
def test_what_is_no_package_of_the_host_is_refused(site: Site, word: str, complaint: str) -> None:
    with pytest.raises(WebfarmError, match=complaint) as refused:
        site.on_node("pretend", word)
    assert "nothing was changed" in str(refused.value)
