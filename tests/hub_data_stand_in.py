"""A stand-in for the Hub's HTTP interface to data sets, on loopback: what `datasets` asks when it loads or streams one.

    with HubDataStandIn() as hub:
        hub.commit("ada/pairs", {"data/train-00000.jsonl": b"...", "data/train-00001.jsonl": b"..."})
        subprocess.run(..., env={**os.environ, **hub.environment(home=folder)})
        hub.sent["data/train-00000.jsonl"]              # bytes of it that were fetched

As much as is asked for (datasets 5.2, huggingface_hub 2.4), and as strict: files are served by commit, branch or tag, whole or
by range, and nothing that was not committed is there. Faults are put into `hub.refusals`, `hub.cuts` and `hub.gated`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_PIECE = 4096  # bytes sent at a time: a connection is cut between two of them


@dataclass
class DataRepository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    """branch or tag -> commit"""


class HubDataStandIn:
    """Serves until the `with` block ends."""

    def __init__(self) -> None:
        self.repositories: dict[str, DataRepository] = {}
        self.gated: set[str] = set()
        """data sets that want a token, and get none that would do"""
        self.refusals: dict[str, list[int]] = defaultdict(list)
        """status codes with which the next requests for paths that contain this are answered; 0: the connection ends instead"""
        self.cuts: dict[str, list[int]] = defaultdict(list)
        """the next answers that send this file break off after so many bytes"""
        self.sent: Counter[str] = Counter()
        """bytes of each file that went out"""
        self.requests: list[str] = []

        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True  # a connection that is kept alive would be waited for
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubDataStandIn:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """For a subprocess, which then knows no other Hub. (HF_ENDPOINT is read when huggingface_hub is imported.)"""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # which are kept elsewhere
        }

    def commit(self, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
        """These files and those of the commit before; its name. Makes the repository and the branch where there are none."""
        repository = self.repositories.setdefault(repo_id, DataRepository())
        held = repository.commits.get(repository.heads.get(branch, ""), {}) | files
        digest = hashlib.sha1(repr((len(repository.commits), sorted(held.items()))).encode()).hexdigest()
        repository.commits[digest] = held
        repository.heads[branch] = digest
        return digest


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubDataStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms for the client's word that its headers have come

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client has what it wants, or the test cut the connection
            self.close_connection = True

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {unquote(self.path)}")
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self._refuse_if_told(path)
            for method, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    getattr(self, name)(**match.groupdict())
                    return
            raise RefusedError(404, f"the stand-in does not know {self.command} {path}", "EntryNotFound")
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._answer({"error": refused.message}, refused.status, headers)

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815

    def _refuse_if_told(self, path: str) -> None:
        for part, statuses in self.hub.refusals.items():
            if part in path and statuses:
                if (status := statuses.pop(0)) == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    raise ConnectionAbortedError
                raise RefusedError(status, "the stand-in was told to refuse this")

    def _answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None, cut: int | None = None) -> int:
        """Bytes that were sent; at most `cut`, and then the connection is gone."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        end = len(body) if cut is None else min(cut, len(body))
        for start in range(0, end, _PIECE):
            self.wfile.write(body[start : min(start + _PIECE, end)])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return end

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            # As the Hub answers those who are not logged in, so that a private data set does not show that it is there.
            raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
        if repo_id in self.hub.gated:
            raise RefusedError(401, f"Access to dataset {repo_id} is restricted.", "GatedRepo")
        oid = repository.heads.get(revision, revision)
        if oid not in repository.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # ------------------------------------------------------------------------------------------------ the routes

    def info(self, repo_id: str, revision: str = "main") -> None:
        oid, files = self._files(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        self._answer({"id": repo_id, "sha": oid, "private": False, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str | None) -> None:
        _, files = self._files(repo_id, revision)
        begin = f"{folder.strip('/')}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(files.items()):
            if not path.startswith(begin):
                continue
            parts = path.removeprefix(begin).split("/")
            deep = "recursive=true" in self.path.lower()
            for depth in range(1, len(parts) if deep else min(2, len(parts))):
                entries.setdefault(begin + "/".join(parts[:depth]), _folder(begin + "/".join(parts[:depth])))
            if deep or len(parts) == 1:
                entries[path] = _entry(path, content)
        if begin and not entries:
            raise RefusedError(404, f"{folder} does not exist", "EntryNotFound")
        self._answer(list(entries.values()))

    def paths_info(self, repo_id: str, revision: str) -> None:
        _, files = self._files(repo_id, revision)
        asked = json.loads(self.content)["paths"]
        found = [_entry(path, files[path]) for path in asked if path in files]
        found += [_folder(path) for path in asked if any(name.startswith(f"{path}/") for name in files)]
        self._answer(found)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        oid, files = self._files(repo_id, revision)
        content = files.get(path)
        if content is None:
            raise RefusedError(404, f"Entry not found: {path}", "EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_blob_id(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if first >= len(content):
                raise RefusedError(416, "Range Not Satisfiable")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        cuts = self.hub.cuts[path] if self.command == "GET" else []
        if sent := self._answer(content, status, headers, cuts.pop(0) if cuts else None):
            self.hub.sent[path] += sent


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _blob_id(content: bytes) -> str:
    """Git's digest, which is what the Hub gives as ETag of a file that is not large."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO = r"(?P<repo_id>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", rf"/api/datasets/{_REPO}", "info"),
    ("GET", rf"/api/datasets/{_REPO}/revision/(?P<revision>.+)", "info"),
    ("GET", rf"/api/datasets/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", "tree"),
    ("POST", rf"/api/datasets/{_REPO}/paths-info/(?P<revision>.+)", "paths_info"),
    ("GET HEAD", rf"/datasets/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
