"""Call a function of `_modules/webfarm_snapshot.py` in a process of its own, without Salt.

    snapshot_call.py REPOSITORY FILE FUNCTION ARGUMENTS

FILE has the pillar and the minion's configuration, ARGUMENTS are a JSON object. Prints what the
function returns, or its error, as JSON.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    repository, file, function, arguments = sys.argv[1:]
    sys.path.insert(0, f"{repository}/_utils")
    path = Path(repository) / "_modules/webfarm_snapshot.py"
    given = json.loads(Path(file).read_text())
    space = {
        "__file__": str(path),
        "__name__": "webfarm_snapshot",
        "__pillar__": {"webfarm": given["pillar"]},
        "__opts__": given["opts"],
    }
    exec(compile(path.read_text(), str(path), "exec"), space)
    from webfarm.errors import WebfarmError

    try:
        name = {"list": "list_"}.get(function, function)  # as __func_alias__ has it
        answer = space[name](**json.loads(arguments))
    except WebfarmError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))


main()
