"""A web server without PHP: /ready over HTTP speaks for the real symlinks and releases.php.

As on a real server, the PHP version is the one that was current when "php-fpm" was last restarted,
and the webapp's is the one behind the symlink now.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NODE = "site1-farm1-ws1"
NODES: dict[int, "WebNode"] = {}
"""By port; for what finds a node by a value in Salt's options."""


class WebNode:
    def __init__(self, root: Path, config: Path) -> None:
        self.root, self.config = root, config
        config.mkdir(parents=True, exist_ok=True)
        self.running: str | None = None
        self.restarts = 0
        self.broken: set[str] = set()  # PHP versions that do not come up
        self.refuses_restart = False
        self.asked: list[tuple[str, str | None]] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = node.answer(self.path, self.headers.get("X-Webfarm-Release"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.http.server_address[1])

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def restart(self, unit: str) -> bool:
        assert unit == "webfarm-php-fpm"
        self.restarts += 1
        self.running = None
        if self.refuses_restart:
            return False
        php = self._behind("php")
        self.running = None if php in self.broken else php
        return True

    def answer(self, path: str, expected: str | None) -> tuple[int, bytes]:
        self.asked.append((path, expected))
        if self.running is None:
            return 502, b"<html>Bad Gateway</html>"
        if path != "/ready":
            return (404, b"no") if "missing" in path else (200, b"a page")
        webapp = self._behind("webapp")
        pair = f"{self.running}+{webapp}"
        text = (
            (self.config / "releases.php").read_text()
            if (self.config / "releases.php").exists()
            else ""
        )
        known = dict(re.findall(r"^    '(.*)' => '(.*)',$", text, re.M))
        release = known.get(pair, f"unknown:{pair}")
        ready = release == expected
        why = "" if ready else f"{expected} is expected, this is {release}"
        data = {
            "release": release,
            "php": self.running,
            "webapp": webapp,
            "ready": ready,
            "why": why,
        }
        return 200 if ready else 503, json.dumps(data).encode()

    def _behind(self, kind: str) -> str | None:
        current = self.root / kind / "current"
        return current.resolve().name if current.is_symlink() else None

    def salt(self) -> dict[str, Any]:
        """What the modules call of Salt's own."""
        return {
            "service.restart": self.restart,
            "webfarm_topology.node": lambda: {
                "id": NODE,
                "role": "server",
                "site": "site1",
                "farm": "farm1",
                "node": {"address": "127.0.0.1", "port": self.port},
            },
        }
