"""After a boot, php-fpm starts on trees that are what they were when they were installed, or not at
all: the script that its unit asks, on really installed trees.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from versions_world import add_php, add_webapp, rsync_daemon, write
from webfarm.store import Store
from webfarm.versions import Reserve, Versions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "salt/php/files/verify-trees"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("installed")
    store = Store(home / "store")
    add_php(store, home / "sources", "8.2.36")
    write(home / "sources/webapp-2", "public/a  b\\c *é", "an awkward name")
    write(home / "sources/webapp-2", "public/empty", "")
    add_webapp(store, home / "sources", "2")
    with rsync_daemon(home / "rsync", store.root) as source:
        for kind, version in (("php", "8.2.36"), ("webapp", "2")):
            versions = Versions(kind, home / "srv", Reserve(0.0, 0))
            versions.install(version, source)
            versions.activate(version)
    return home / "srv"


@pytest.fixture
def root(installed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(installed, tmp_path / "srv", symlinks=True))


def boot(root: Path) -> subprocess.CompletedProcess[str]:
    """Start php-fpm, as far as the script goes."""
    flag = root.parent / "run/webfarm/trees-verified"
    return subprocess.run(
        ["sh", SCRIPT, root, flag], cwd="/", capture_output=True, text=True, timeout=60
    )


def test_whole_trees_are_read_once_in_a_boot(root: Path) -> None:
    done = boot(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    os.truncate(root / "webapp/current/public/index.php", 0)
    assert boot(root).returncode == 0
    shutil.rmtree(root.parent / "run")
    assert boot(root).returncode == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda r: os.truncate(r / "php/current/sbin/php-fpm", 0), "php 8.2.36 is damaged"),
        (lambda r: (r / "php/current/lib/opcache.so").unlink(), "php 8.2.36 is damaged"),
        (lambda r: write(r, "webapp/current/public/a  b\\c *é", "x"), "webapp 2 is damaged"),
        (lambda r: write(r, "webapp/current/public/empty", "x"), "webapp 2 is damaged"),
        (lambda r: (r / "webapp/manifests/2.manifest").unlink(), "webapp 2: there is no tree"),
        (lambda r: os.truncate(r / "webapp/manifests/2.manifest", 0), "webapp 2: there is no"),
        (lambda r: os.truncate(r / "webapp/manifests/2.manifest", 90), "webapp 2 is damaged"),
        (lambda r: shutil.rmtree(r / "webapp/versions/2"), "webapp 2: there is no tree"),
        (lambda r: (r / "webapp/current").unlink(), "there is no tree"),
    ],
)
def test_php_fpm_does_not_start_on_a_damaged_tree(
    root: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(root)
    for _ in range(2):  # nothing of a failure counts as verified
        done = boot(root)
        assert done.returncode == 1
        assert says in done.stdout


def test_the_unit_asks_the_script_that_the_state_installs() -> None:
    unit = (ROOT / "salt/php/files/webfarm-php-fpm.service").read_text()
    assert "\nExecCondition=/usr/local/lib/webfarm/verify-trees\n" in unit
    state = (ROOT / "salt/php/init.sls").read_text()
    assert "/usr/local/lib/webfarm/verify-trees:\n" in state
