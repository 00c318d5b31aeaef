"""The manifest names everything in a tree, and nothing that could harm gets in."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm import manifest
from webfarm.manifest import BadDigest, BadManifest, BadTree

SHA = "0" * 64


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (root / "sub").chmod(0o755)
    (root / "sub/deep").chmod(0o755)
    (root / "a file").write_text("one\n")
    (root / "a file").chmod(0o644)
    (root / "sub/run").write_text("#!/bin/sh\n")
    (root / "sub/run").chmod(0o755)
    (root / "sub/link").symlink_to("../a file")
    (root / "sub/ümlaut").write_text("")
    (root / "sub/ümlaut").chmod(0o600)
    return root


def test_the_text_is_as_documented(tree: Path) -> None:
    assert manifest.of(tree).text.splitlines() == [
        "f 2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806 644 a file",
        "d 755 sub",
        "d 755 sub/deep",
        "l ../a%20file sub/link",
        f"f {manifest.sha256(tree / 'sub/run')} 755 sub/run",
        "f e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 600 sub/ümlaut",
    ]


def test_parse_gives_back_what_was_read(tree: Path) -> None:
    read = manifest.of(tree)
    assert manifest.parse(read.text) == read
    assert manifest.parse(read.text).digest == read.digest


def test_normalised_modes_do_not_depend_on_the_builder(tree: Path) -> None:
    before = manifest.of(tree, normalise=True)
    assert {e.mode for e in before.entries if e.kind == "f"} == {0o444, 0o555}
    (tree / "a file").chmod(0o600)
    (tree / "sub").chmod(0o700)
    assert manifest.of(tree, normalise=True) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: (t / "a file").write_text("two\n"), "a file: content differs"),
        (lambda t: (t / "a file").chmod(0o664), "a file: mode 644, found 664"),
        (lambda t: (t / "a file").unlink(), "a file: missing"),
        (lambda t: (t / "new").mkdir(), "new: unexpected"),
        (
            lambda t: ((t / "sub/link").unlink(), (t / "sub/link").symlink_to("run")),
            "sub/link: symlink to ../a file, found run",
        ),
        (
            lambda t: ((t / "sub/deep").rmdir(), (t / "sub/deep").write_text("")),
            "sub/deep: expected a folder, found a file",
        ),
    ],
)
def test_each_change_is_named_and_changes_the_digest(tree, change, said) -> None:  # type: ignore[no-untyped-def]
    before = manifest.of(tree)
    change(tree)
    after = manifest.of(tree)
    assert manifest.diff(before, after) == [said]
    assert before.digest != after.digest


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../x", "../..", "..", "deep/../../../x", "deep/..", "", "x/../../.."],
)
def test_a_symlink_that_may_leave_the_tree_is_refused(tree: Path, target: str) -> None:
    if target:
        (tree / "bad").symlink_to(target)
        with pytest.raises(BadTree, match="bad is a symlink"):
            manifest.of(tree)
    with pytest.raises(BadManifest, match="refused"):
        manifest.parse(f"l {target} bad\n")


def test_a_symlink_cannot_climb_out_through_another(tree: Path) -> None:
    (tree / "here").symlink_to(".")
    (tree / "sub/out").symlink_to("../here/../x")
    with pytest.raises(BadTree, match="sub/out"):
        manifest.of(tree)


def test_symlinks_within_the_tree_are_fine(tree: Path) -> None:
    (tree / "sub/deep/up").symlink_to("../../a file")
    (tree / "down").symlink_to("./sub/deep")
    (tree / "odd").symlink_to("100% of\ta b")
    read = manifest.of(tree)
    assert manifest.parse(read.text) == read


def test_what_is_no_file_folder_or_symlink_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with pytest.raises(BadTree, match="fifo"):
        manifest.of(tree)
    (tree / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tree / "socket"))
        with pytest.raises(BadTree, match="socket"):
            manifest.of(tree)
    (tree / "socket").unlink()
    (tree / "sub/run").chmod(0o4755)
    with pytest.raises(BadTree, match="set-id"):
        manifest.of(tree)


@pytest.mark.parametrize("name", [b"new\nline", b"\xff", b"tab\t", b"del\x7f", b"cr\r"])
def test_names_that_could_forge_a_line_are_refused(tree: Path, name: bytes) -> None:
    (Path(os.fsdecode(os.fsencode(tree) + b"/" + name))).write_text("")
    with pytest.raises(BadTree, match="name in"):
        manifest.of(tree)


@pytest.mark.parametrize("root", ["missing", "a file", "sub/link"])
def test_only_a_folder_has_a_manifest(tree: Path, root: str) -> None:
    with pytest.raises(BadTree, match="is not a folder"):
        manifest.of(tree / root)


@pytest.mark.parametrize(
    "text",
    [
        "f",
        "garbage\n",
        "\n",
        "f xyz 644 a\n",
        f"f {SHA.upper()[:-1]}A 644 a\n",
        f"f {SHA} 0644 a\n",
        f"f {SHA} 888 a\n",
        f"f {SHA} 644 /etc/passwd\n",
        f"f {SHA} 644 ../a\n",
        f"f {SHA} 644 a/../b\n",
        f"f {SHA} 644 a//b\n",
        f"f {SHA} 644 ./a\n",
        f"f {SHA} 644 \n",
        f"f {SHA} 644 no/folder\n",
        f"f {SHA} 644 a\nf {SHA} 644 a\n",
        f"f {SHA} 644 b\nf {SHA} 644 a\n",
        f"f {SHA} 644 a\x00b\n",
        f"f {SHA} 644 a\rb\n",
        f"f {SHA} 644 \udcff\n",
        f"f {SHA} 644 a",
        f"f {SHA} 644 a\n\n",
        "x 755 a\n",
        "d  a\n",
        "l %2e%2e/x a\n",
        "l %2Fetc a\n",
        "l é a\n",
        "l %ff a\n",
    ],
)
def test_a_text_that_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(BadManifest):
        manifest.parse(text)


def test_a_text_of_absurd_size_is_refused_unread() -> None:
    with pytest.raises(BadManifest, match="at most"):
        manifest.parse("d 755 a\n" * (manifest.MAX_BYTES // 8 + 1))


@given(st.text(max_size=200))
def test_any_text_is_either_refused_or_canonical(text: str) -> None:
    try:
        read = manifest.parse(text)
    except BadManifest:
        return
    assert read.text == text


LINE = st.builds(
    "{} {} {}\n".format,
    st.sampled_from(["d", "f " + SHA, "l"]),
    st.sampled_from(["644", "755", "x", "../x", "%20", "0"]),
    st.text(alphabet="ab/. é%", min_size=1, max_size=6),
)


@given(st.lists(LINE, max_size=4).map("".join))
def test_lines_of_the_right_shape_are_either_refused_or_canonical(text: str) -> None:
    try:
        read = manifest.parse(text)
    except BadManifest:
        return
    assert read.text == text
    assert not any(
        part in ("", "..", ".") for entry in read.entries for part in entry.path.split("/")
    )


@pytest.mark.parametrize("value", [None, 7, "", "a" * 63, "A" * 64, "g" * 64, f"{SHA}\n", SHA * 9])
def test_what_is_no_digest_is_refused(value: object) -> None:
    with pytest.raises(BadDigest):
        manifest.check_digest(value)
