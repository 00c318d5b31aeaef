"""The index of a binary host: what is published is what is served, and what is not is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from webfarm import topology
from webfarm.errors import WebfarmError
from webfarm.packages import binhost, php_tree
from webfarm.packages.node import address
from webfarm.packages.wanted import without_version

DIGEST = "sha256:" + "1" * 64
PATH = "app-misc/a/a-1.0-1.gpkg.tar"
INDEX = f"PACKAGES: 1\nVERSION: 0\n\nCPV: app-misc/a-1.0\nPATH: {PATH}\nSIZE: 3\n\n"


def content(**changes: Any) -> str:
    packages = {PATH: {"digest": DIGEST, "size": 3}}
    return json.dumps({"profile": "r640", "index": DIGEST, "packages": packages, **changes})


def test_an_index_is_read_as_it_was_written() -> None:
    host = binhost.parse(content(), "here")
    assert host.packages == {PATH: binhost.Package(DIGEST, 3)}
    assert binhost.parse(host.text, "here") == host


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "7", "{", '"x"', "[" * 100_000, content(profile="../x")),
        *(content(profile=7), content(index="md5:1"), content(packages=[]), content(packages=None)),
        *(
            content(packages={path: {"digest": DIGEST, "size": 3}})
            for path in (
                "../a/b",
                "/etc/passwd",
                "a/../b",
                "a",
                "a/b\n",
                "a//b",
                ".a/b",
                "a/-b",
                "",
            )
        ),
        content(packages={PATH: {"digest": "no", "size": 3}}),
        content(packages={PATH: {"digest": DIGEST, "size": "three"}}),
        content(packages={PATH: {"size": 3}}),
    ],
)
def test_what_is_no_index_is_refused(text: str) -> None:
    with pytest.raises(WebfarmError, match=r"[Nn]othing was changed"):
        binhost.parse(text, "here")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    package = tmp_path / "built" / PATH
    package.parent.mkdir(parents=True)
    package.write_text("one")
    (tmp_path / "built/Packages").write_text(INDEX)
    return tmp_path / "built"


def test_what_was_built_is_what_is_served(tmp_path: Path, built: Path) -> None:
    public = tmp_path / "public/r640"
    host = binhost.publish(built, public, "r640")
    assert (public / PATH).read_text() == "one"
    assert binhost.parse((public / binhost.NAME).read_text(), "here") == host
    assert binhost.damages(public) == []
    # built again under the same path: readers of the old file keep it
    (built / PATH).unlink()
    (built / PATH).write_text("two")
    with (public / PATH).open() as reader:
        binhost.publish(built, public, "r640")
        assert reader.read() == "one" and (public / PATH).read_text() == "two"
    (built / "Packages").write_text("PACKAGES: 0\n")
    binhost.publish(built, public, "r640")
    assert not (public / PATH).exists()
    assert list(public.rglob(".new-*")) == []


def test_what_was_damaged_since_is_named(tmp_path: Path, built: Path) -> None:
    public = tmp_path / "public"
    assert binhost.damages(public) == []
    binhost.publish(built, public, "r640")
    (public / PATH).unlink()
    assert binhost.damages(public) == [f"{public / PATH} is missing"]
    (public / PATH).write_text("other")
    (public / "Packages").write_text("other")
    assert binhost.damages(public) == [
        f"{public}/Packages is not the index that was published",
        f"{public / PATH} was changed",
    ]


def test_an_index_that_leads_out_of_its_folder_is_not_published(
    tmp_path: Path, built: Path
) -> None:
    (built / "Packages").write_text(INDEX.replace(PATH, "../../../etc/passwd"))
    with pytest.raises(WebfarmError, match="no path of a package"):
        binhost.publish(built, tmp_path / "public", "r640")
    assert not (tmp_path / "public" / binhost.NAME).exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///etc", "nonsense", "http://[::1"])
def test_a_host_that_does_not_answer_is_named(url: str) -> None:
    with pytest.raises(WebfarmError, match="Nothing was changed"):
        binhost.fetch(url, "r640")


def test_the_address_is_the_preproduction_servers_of_the_profile(pillar: dict[str, Any]) -> None:
    pillar["preproduction"] = {
        "servers": {
            "pre1": {"address": "10.77.0.51"},
            "pre2": {"address": "fd00::52", "hw_profile": "r660"},
        }
    }
    cluster = topology.parse(pillar)
    assert address(cluster, "default") == "http://10.77.0.51:8680/default"
    assert address(cluster, "r660") == "http://[fd00::52]:8680/r660"
    assert address(cluster, "other") is None


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("app-misc/a", "app-misc/a"),
        ("=app-misc/a-b-1.0", "app-misc/a-b"),
        ("=app-misc/a-2-1.0_rc1-r3", "app-misc/a-2"),
        ("nginx=1.22.1-9", "nginx"),
    ],
)
def test_a_words_version_is_left_out(word: str, name: str) -> None:
    assert without_version(word) == name


def php(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    return root


def test_an_exported_tree_is_the_same_each_time_and_never_replaced(tmp_path: Path) -> None:
    public = tmp_path / "public"
    place = "usr/lib64/php8.2"

    def merge(root: Path) -> Path:
        return php(root, f"{place}/bin/php", f"{place}/bin/php-fpm")

    one = php_tree.export(merge, "8.2.40", public)
    assert php_tree.export(merge, "8.2.40", public) == one
    with pytest.raises(WebfarmError, match="exported before with another content"):
        php_tree.export(lambda root: php(merge(root), f"{place}/bin/new"), "8.2.40", public)
    assert binhost.digest_of(one.path) == one.archive
    assert [path.name for path in tmp_path.iterdir()] == ["public"]


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("usr/bin/php",),
        ("usr/lib64/php8.2/bin/php", "usr/lib64/php8.3/bin/php"),
        ("usr/lib64/php8.2/bin/php",),
    ],
)
def test_a_package_without_one_php_is_not_exported(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(WebfarmError):
        php_tree.export(lambda root: php(root, *names), "8.2.40", tmp_path / "public")
    assert list((tmp_path / "public/_trees").iterdir()) == []
