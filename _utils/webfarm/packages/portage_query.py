"""Answer questions about Portage from its own Python library, as JSON.

A program: it runs under the ``python3`` that has Portage (Salt's own has none) and imports nothing
of Webfarm. The question is a JSON object on standard input, the answer one on standard output:
``{"answer": …}`` or ``{"error": text}``. Nothing on the machine is changed.

The calculation of dependencies is what ``emerge --pretend`` does itself (``_emerge.actions``).
"""

import json
import os
import re
import shlex
import sys
import traceback
from typing import Any

_UNREAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_.-]*")


def name_of(cp: str, slot: str) -> str:
    """A package's name here: its slot belongs to it unless that is 0."""
    return cp if slot == "0" else f"{cp}:{slot}"


def target(options: Any = (), words: Any = ()) -> tuple[Any, Any]:
    """Portage's configuration with some of emerge's options, and the trees of the target."""
    from _emerge.actions import load_emerge_config
    from _emerge.main import parse_opts

    action, opts, files = parse_opts([*options, *words], silent=True)
    config = load_emerge_config(action=action, args=files, opts=opts)
    return config, config.target_config.trees


def installed(vardb: Any) -> dict[str, str]:
    """Name to version of every installed package; the newest where a slot has several."""
    import portage

    out: dict[str, str] = {}
    for cpv in vardb.cpv_all():
        slot = vardb.aux_get(cpv, ["SLOT"])[0].partition("/")[0]
        name = name_of(cpv.cp, slot)
        if name not in out or portage.vercmp(cpv.version, out[name]) > 0:
            out[name] = cpv.version
    return out


def resolve(question: Any) -> list[dict[str, Any]]:
    """What emerge would merge: ``[{"name", "from", "to", "binary", "path", "uri", "size"}]``."""
    import portage
    from _emerge.actions import adjust_configs
    from _emerge.create_depgraph_params import create_depgraph_params
    from _emerge.depgraph import backtrack_depgraph

    config, trees = target(question["options"], question["words"])
    adjust_configs(config.opts, config.trees)
    before = installed(trees["vartree"].dbapi)
    words = list(config.args)
    for name, version in sorted(question["certified"].items()):
        here = before.get(name)
        if here is None or portage.vercmp(here, version) <= 0:
            cp, _, slot = name.partition(":")
            words.append(f"={cp}-{version}" + (f":{slot}" if slot else ""))
    if config.opts.get("--usepkg") or config.opts.get("--usepkgonly"):
        trees["bintree"].populate(
            getbinpkgs=bool(config.opts.get("--getbinpkg")), getbinpkg_refresh=True
        )
    params = create_depgraph_params(config.opts, config.action)
    success, graph, _ = backtrack_depgraph(
        config.target_config.settings, config.trees, config.opts, params, config.action, words, None
    )
    if not success:
        graph.display_problems()
        raise SystemExit("emerge cannot resolve it")
    out = []
    for package in graph.altlist():
        operation = getattr(package, "operation", None)
        if operation == "uninstall":
            raise SystemExit(
                f"emerge would remove {package.cpv}; Webfarm removes nothing by itself"
            )
        if operation != "merge":
            continue
        name = name_of(package.cp, package.slot)
        found = {
            "name": name,
            "from": before.get(name),
            "to": package.version,
            "binary": package.type_name == "binary",
            "repo": package.repo,
        }
        if found["binary"]:
            remote = trees["bintree"]._remotepkgs or {}
            entry = remote.get(trees["bintree"].dbapi._instance_key(package.cpv), {})
            found["path"] = entry.get("PATH", "")
            found["uri"] = str(entry.get("BASE_URI", ""))
        out.append(found)
    return out


def owned(question: Any) -> dict[str, list[str]]:
    """The files of installed packages: ``{name: [path, …]}``."""
    _, trees = target()
    out: dict[str, list[str]] = {}
    for name in question["names"]:
        files = out.setdefault(name, [])
        for cpv in trees["vartree"].dbapi.match(name):
            link = trees["vartree"].dbapi._dblink(cpv)
            files += [path for path, entry in link.getcontents().items() if entry[0] == "obj"]
    return out


def protected(settings: Any) -> Any:
    """Whether a path is a configuration file, which a person may have edited."""
    from portage.util import ConfigProtect

    protect = ConfigProtect(
        settings["EROOT"],
        shlex.split(settings.get("CONFIG_PROTECT", "")),
        shlex.split(settings.get("CONFIG_PROTECT_MASK", "")),
    )
    return protect.isprotected


def verify(question: Any) -> list[str]:
    """Files that are missing or not as they were installed, configuration aside."""
    from portage.checksum import perform_md5

    config, trees = target()
    is_configuration = protected(config.target_config.settings)
    vardb = trees["vartree"].dbapi
    out = []
    for cpv in [c for n in question["names"] for c in vardb.match(n)] or vardb.cpv_all():
        for path, entry in sorted(vardb._dblink(cpv).getcontents().items()):
            if entry[0] != "obj" or is_configuration(path):
                continue
            if not os.path.isfile(path):
                out.append(f"{cpv}: {path} is missing")
            elif perform_md5(path) != entry[2]:
                out.append(f"{cpv}: {path} was changed")
    return out


def waiting(question: Any) -> list[str]:
    """New configuration files that wait for ``etc-update`` or ``dispatch-conf``."""
    from portage.util import find_updated_config_files

    config, _ = target()
    settings = config.target_config.settings
    out = []
    found = find_updated_config_files(
        settings["EROOT"], shlex.split(settings.get("CONFIG_PROTECT", ""))
    )
    for place, names in found or ():
        for name in names or [os.path.basename(place)]:
            out.append(os.path.join(place if names else os.path.dirname(place), name))
    return sorted(out)


def news(question: Any) -> list[dict[str, str]]:
    """News of the repositories that nobody has read: ``[{"repo", "name", "title"}]``."""
    from portage.const import NEWS_LIB_PATH
    from portage.news import NewsManager

    config, trees = target()
    settings = config.target_config.settings
    unread = os.path.join(settings["EROOT"], NEWS_LIB_PATH, "news")
    portdb = trees["porttree"].dbapi
    out = []
    for repo in portdb.getRepositories():
        items = NewsManager(portdb, trees["vartree"].dbapi, "metadata/news", unread)
        items.getUnreadItems(repo, update=True)  # writes the list, as emerge does at its end
        path = os.path.join(unread, f"news-{repo}.unread")
        names = text(path).split()
        for name in filter(_UNREAD.fullmatch, names):
            item = f"{portdb.getRepositoryPath(repo)}/metadata/news/{name}/{name}.en.txt"
            lines = text(item).splitlines()
            titles = [line.partition(":")[2].strip() for line in lines if line[:6] == "Title:"]
            title = titles[0] if titles else name
            out.append({"repo": repo, "name": name, "title": title})
    return out


def text(path: str) -> str:
    """The content of a file, nothing when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def about(question: Any) -> dict[str, Any]:
    """What is installed, and where Portage has its things."""
    config, trees = target()
    settings = config.target_config.settings
    return {
        "installed": installed(trees["vartree"].dbapi),
        "eroot": settings["EROOT"],
        "profile": settings.profile_path,
        "features": sorted(settings.features),
    }


QUESTIONS: dict[str, Any] = {
    function.__name__: function for function in (about, news, owned, resolve, verify, waiting)
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Portage prints is for people
    try:
        question = json.load(sys.stdin)
        said = {"answer": QUESTIONS[question["do"]](question)}
    except SystemExit as error:
        said = {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(said) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
