"""A package set from the command line is words that no tool takes for anything else."""

import pytest
from webfarm.errors import WebfarmError
from webfarm.packages.wanted import wanted


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["nginx"], ("nginx",)),
        (["g++"], ("g++",)),
        ("openssl, nginx=1.22.1-9+deb12u1", ("nginx=1.22.1-9+deb12u1", "openssl")),
        (["b2", "b2", "a1"], ("a1", "b2")),
        (["libstdc++6", "php8.2-fpm=2:8.2.1~rc1"], ("libstdc++6", "php8.2-fpm=2:8.2.1~rc1")),
        (["www-servers/nginx"], ("www-servers/nginx",)),
        (["=dev-lang/php-8.2.32-r1:8.2"], ("=dev-lang/php-8.2.32-r1:8.2",)),
        (["=dev-libs/openssl-3.0.13_p1"], ("=dev-libs/openssl-3.0.13_p1",)),
    ],
)
def test_packages_are_read_as_an_operator_types_them(given, read):
    assert wanted(given) == read


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        "",
        " , ",
        7,
        True,
        {"nginx": 1},
        ["--yes"],
        ["-o=Dpkg::Pre-Invoke::=id"],
        ["nginx;id"],
        ["$(id)"],
        ["nginx\n"],
        ["ngi nx"],
        ["../nginx"],
        ["a/../b"],
        ["./nginx.deb"],
        ["/tmp/nginx.deb"],
        ["=www-servers/nginx"],
        [">=www-servers/nginx-1"],
        ["@world"],
        ["nginx="],
        ["nginx-"],
        ["nginx=-1"],
        ["n"],
        ["nginx\u0661x"],
        ["x" * 300],
        [10**5000],
        [["nginx"]],
        [None],
    ],
)
def test_what_is_no_package_is_refused_and_shown(given):
    with pytest.raises(WebfarmError, match="nothing was changed") as refused:
        wanted(given)
    assert len(str(refused.value)) < 400


def test_too_many_packages_are_refused():
    with pytest.raises(WebfarmError, match="501 words"):
        wanted(["aa"] * 501)


def test_the_error_names_the_argument():
    with pytest.raises(WebfarmError, match=r"^what_i_typed"):
        wanted(3, "what_i_typed")
