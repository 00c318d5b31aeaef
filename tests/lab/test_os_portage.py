"""Gentoo's packages, for real: built in preproduction, certified, installed from its binary host.

The web servers have no ebuild: whatever gets there was built elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import gentoo
import pytest
import waves
from gentoo import ATOM, Gentoo
from lab_words import Lab
from waves import PREPRODUCTION, Cluster, finished, refused

pytestmark = [pytest.mark.lab, pytest.mark.long]

PUBLIC = f"{gentoo.HOST}/public"


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Cluster]:
    cluster = Cluster(lab)
    cluster.level()
    yield cluster
    cluster.level()


@pytest.fixture(scope="module")
def ebuilds(cluster: Cluster) -> Iterator[Gentoo]:
    """Portage is the package manager of preproduction and of all web servers."""
    made = Gentoo(cluster.lab, PREPRODUCTION, cluster.servers)
    made.prepare()
    with cluster.pillar(packages=gentoo.SETTINGS):
        try:
            made.serve()
            yield made
        finally:
            made.close()


def files(cluster: Cluster, version: str) -> str:
    """The published binary of a version."""
    find = f"find {PUBLIC} -name '{gentoo.TOOL}-{version}-*.gpkg.tar'"
    [file] = cluster.lab.sh(PREPRODUCTION, find).split()
    return file


def test_a_package_is_built_certified_and_installed_from_its_binary_in_service(
    cluster: Cluster, ebuilds: Gentoo
) -> None:
    wanted = ebuilds.ebuild("1.0", "first")
    refused(waves.upgraded(cluster.lab, "all", [wanted], "online"), "upgrade.certify", ATOM)
    ebuilds.publish(wanted)
    certificate = waves.certified(cluster.lab, [wanted])
    [tested] = certificate["tested"].values()
    assert tested["server"] == PREPRODUCTION, certificate
    boots = waves.boots(cluster.lab, cluster.servers)
    with cluster.shop.traffic(), waves.sampled(cluster.lab, cluster.sites) as seen:
        finished(waves.upgraded(cluster.lab, "all", [wanted], "online"))
        cluster.shop.answers(300)
    cluster.verdict()
    assert set(ebuilds.says().values()) == {"1.0 first"}
    assert seen.most == 0 and waves.boots(cluster.lab, cluster.servers) == boots


def _corrupt(cluster: Cluster, version: str) -> None:
    binary = files(cluster, version)
    harm = (
        f"cp -p {binary} /root/harmed && printf x | dd of=/root/harmed bs=1 seek=700 conv=notrunc"
    )
    cluster.lab.sh(PREPRODUCTION, f"{harm} && mv /root/harmed {binary}")  # it may be a hard link


def _withdraw(cluster: Cluster, version: str) -> None:
    cluster.lab.sh(PREPRODUCTION, f"rm {files(cluster, version)}")


def _other_index(cluster: Cluster, version: str) -> None:
    """The index tells of another binary than there is."""
    edit = "s/^(SHA1|SHA256|MD5): .{4}/\\1: 0000/; s/^SIZE: 1/SIZE: 2/"
    find = f"find {PUBLIC} -name"
    clean = f"{find} 'Packages.gz' -delete"
    cluster.lab.sh(PREPRODUCTION, f"{clean}; {find} Packages -exec sed -i -E '{edit}' {{}} +")


@pytest.mark.parametrize(
    ("version", "harm"),
    [("1.1", _corrupt), ("1.2", _withdraw), ("1.3", _other_index)],
    ids=["corrupted", "missing", "another index"],
)
def test_a_binary_that_is_not_the_certified_one_is_refused_by_name(
    cluster: Cluster, ebuilds: Gentoo, version: str, harm: object
) -> None:
    wanted = ebuilds.ebuild(version)
    ebuilds.publish(wanted)
    waves.certified(cluster.lab, [wanted])
    before = ebuilds.says()
    assert callable(harm)
    harm(cluster, version)
    ended = waves.upgraded(cluster.lab, "all", [wanted], "online")
    assert not ended.ok and ATOM in ended.said, ended
    assert ebuilds.says() == before
    cluster.level()


def test_a_server_that_is_not_of_its_profile_is_refused(cluster: Cluster, ebuilds: Gentoo) -> None:
    wanted = ebuilds.ebuild("1.4")
    ebuilds.publish(wanted)
    waves.certified(cluster.lab, [wanted])
    before = ebuilds.says()
    with cluster.pillar(hw_profiles={"r640": {"flags": ["lab_has_no_such_flag"]}}):
        ended = waves.upgraded(cluster.lab, "all", [wanted], "online")
    assert not ended.ok, ended
    assert "r640" in ended.said and "lab_has_no_such_flag" in ended.said, ended
    assert ebuilds.says() == before
    cluster.level()
