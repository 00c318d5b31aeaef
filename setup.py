"""The wheel ``saltext.webfarm``: Salt's loader folders as entry points, and the library.

The folders are the very ones that the file server syncs (``_modules`` …): one tree, two ways to
deliver it.
"""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LOADER_FOLDERS = [
    name
    for name in ("modules", "states", "runners", "beacons", "engines")
    if (HERE / f"_{name}").is_dir()
]
LIBRARY = [
    ".".join(("webfarm", *folder.relative_to(HERE / "_utils/webfarm").parts))
    for folder in sorted([HERE / "_utils/webfarm", *(HERE / "_utils/webfarm").rglob("*")])
    if folder.is_dir() and folder.name != "__pycache__"
]
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "_utils/webfarm/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="saltext.webfarm",
    version=VERSION,
    description="Run and upgrade a PHP web cluster behind HAProxy without losing a request",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    install_requires=[
        "salt>=3008",
        "cryptography",
        "pyzmq",
        "msgpack",
        "jinja2",
        "pydantic>=2",
        "rich",
        "tzdata",
    ],
    packages=["saltext.webfarm", *LIBRARY, *(f"saltext.webfarm.{name}" for name in LOADER_FOLDERS)],
    package_dir={
        "saltext.webfarm": "saltext_webfarm",
        "webfarm": "_utils/webfarm",
        **{f"saltext.webfarm.{name}": f"_{name}" for name in LOADER_FOLDERS},
    },
    entry_points={"salt.loader": ["webfarm = saltext.webfarm:loader_dirs"]},
)
