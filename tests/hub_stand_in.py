"""A stand-in for the Hub's HTTP interface, on loopback: users, repositories, branches, commits, pull requests, large files.

    with HubStandIn() as hub:
        subprocess.run(..., env={**os.environ, **hub.environment(token="ada-token", home=folder)})
        hub.files("ada/model")          # {"config.json": b"...", ...} as of main

As much as huggingface_hub asks for when a model is pushed and loaded, and as strict: a commit is made whole or not at all,
and one that names a large file which never arrived is refused. Faults are put into `hub.faults` by the test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 20_000  # bytes; files of weights are large whatever their size


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    """branch or pull request -> commit"""
    messages: list[str] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        self.messages.append(message)
        oid = hashlib.sha1(f"{len(self.messages)} {message}".encode()).hexdigest()
        self.commits[oid] = files
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.heads.get(revision) or (revision if revision in self.commits else None)


class HubStandIn:
    """Serves until the `with` block ends. The tokens "ada-token" and "bob-token" are those of two users."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: Counter[str] = Counter()
        """how often to fail: "cut" (in the middle of a large file), "cut commit" (before it is made), "lose answer" (after
        it is made), "commit 412", "commit 500"; each goes down by one when it happens"""
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = "ada-token") -> dict[str, str]:
        """For a subprocess, which then knows no other Hub. (HF_ENDPOINT is read when huggingface_hub is imported.)"""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_id]
        return repository.commits[repository.resolve(revision) or ""]

    def fails(self, fault: str) -> bool:
        if self.faults[fault] <= 0:
            return False
        self.faults[fault] -= 1
        return True


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ConnectionCutError):
            self.close_connection = True

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.query, path = parse_qs(url.query), unquote(url.path)
        self.hub.requests.append((self.command, path))
        # Read now, because after a refusal the connection lives on; but a large file may be cut in its middle.
        self.content = b"" if path.startswith("/large/") else self._body()
        try:
            for method, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    getattr(self, name)(**match.groupdict())
                    return
            raise RefusedError(404, f"the stand-in does not know {self.command} {path}", "EntryNotFound")
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._answer({"error": refused.message}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    # ------------------------------------------------------------------------------------------------- plumbing

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self) -> Any:
        return json.loads(self.content or b"{}")

    def _answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionCutError

    def _user(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("ada-token", "bob-token"):
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return token.removesuffix("-token")

    def _repository(self, repo_id: str, writing: bool = False) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self._user() != repo_id.split("/")[0]):
            raise RefusedError(404, "Repository not found", "RepoNotFound")  # a private one does not show that it is there
        if writing and self._user() != repo_id.split("/")[0]:
            raise RefusedError(403, f"{self._user()} may not write to {repo_id}")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> str:
        oid = repository.resolve(revision)
        if oid is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    # --------------------------------------------------------------------------------------------------- pushing

    def whoami(self) -> None:
        self._answer({"type": "user", "name": self._user(), "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        asked, user = self._json(), self._user()
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if repo_id.split("/")[0] != user:
            raise RefusedError(403, f"{user} may not create {repo_id}")
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repositories:
            return self._answer({"error": "You already created this model repo", **url}, 409)
        made = Repository(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        made.heads["main"] = made.commit("initial commit", {".gitattributes": b""})
        self.hub.repositories[repo_id] = made
        self._answer(url)

    def validate_card(self) -> None:
        content = self._json()["content"]
        license = re.search(r"^license: (.*)$", content, re.MULTILINE)
        if license and license[1] not in ("apache-2.0", "mit", "cc-by-4.0"):
            return self._answer({"errors": [{"message": '"license" must be one of apache-2.0, mit'}], "warnings": []}, 400)
        self._answer({"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        repository = self._repository(repo_id, writing="create_pr" not in self.query)
        held = repository.commits[self._commit_of(repository, revision)]
        modes = []
        for file in self._json()["files"]:
            path = file["path"]
            is_large = path.endswith(".safetensors") or file["size"] > LARGE
            oid = _blob_id(held[path], is_large) if path in held else None
            modes.append(
                {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._answer({"files": modes})

    def large_files(self, repo_id: str) -> None:
        self._repository(repo_id)
        objects = []
        for asked in self._json()["objects"]:
            action = {"href": f"{self.hub.endpoint}/large/{asked['oid']}"}
            verify = {"href": f"{self.hub.endpoint}/large-verify"}
            known = asked["oid"] in self.hub.large
            objects.append({**asked, **({} if known else {"actions": {"upload": action, "verify": verify}})})
        self._answer({"transfer": "basic", "objects": objects})

    def put_large_file(self, oid: str) -> None:
        if self.hub.fails("cut"):
            self.rfile.read(1000)  # some of it has arrived
            self._cut()
        body = self._body()
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "the content does not have this digest")
        self.hub.large[oid] = body
        self._answer({})

    def verify_large_file(self) -> None:
        asked = self._json()
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise RefusedError(404, "no such large file")
        self._answer({})

    def make_branch(self, repo_id: str, branch: str) -> None:
        repository = self._repository(repo_id, writing=True)
        if re.search(r"[\s~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$", branch):
            raise RefusedError(400, f"Invalid ref name: {branch}")
        if branch in repository.heads:
            raise RefusedError(409, "Reference already exists")
        repository.heads[branch] = repository.heads["main"]
        self._answer({})

    def commit(self, repo_id: str, revision: str) -> None:
        proposed = "create_pr" in self.query
        repository = self._repository(repo_id, writing=not proposed)
        lines = [json.loads(line) for line in self.content.splitlines()]
        if self.hub.fails("cut commit"):
            self._cut()
        for status in (412, 500):
            if self.hub.fails(f"commit {status}"):
                raise RefusedError(status, f"the commit was refused ({status})")
        files = dict(repository.commits[self._commit_of(repository, revision)])
        for value in (line["value"] for line in lines if line["key"] == "file"):
            files[value["path"]] = base64.b64decode(value["content"])
        for value in (line["value"] for line in lines if line["key"] == "lfsFile"):
            if value["oid"] not in self.hub.large:
                raise RefusedError(400, f"{value['path']} was never uploaded")
            files[value["path"]] = self.hub.large[value["oid"]]
        for path in (line["value"]["path"] for line in lines if line["key"] == "deletedFile"):
            if path not in files:
                raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        oid = repository.commit(lines[0]["value"]["summary"], files)
        branch = f"refs/pr/{len(repository.heads)}" if proposed else revision
        repository.heads[branch] = oid
        if self.hub.fails("lose answer"):
            self._cut()
        url = f"{self.hub.endpoint}/{repo_id}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        if proposed:
            answer["pullRequestUrl"] = f"{url}/discussions/{branch.rsplit('/', 1)[1]}"
        self._answer(answer)

    # --------------------------------------------------------------------------------------------------- loading

    def model_info(self, repo_id: str, revision: str | None = None) -> None:
        repository = self._repository(repo_id)
        oid = self._commit_of(repository, revision or "main")
        siblings = [
            {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]}
            | ({"lfs": {"size": e["size"], "sha256": e["lfs"]["oid"], "pointerSize": 134}} if "lfs" in e else {})
            for e in self._entries(repository, oid)
        ]
        self._answer({"id": repo_id, "sha": oid, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str | None) -> None:
        repository = self._repository(repo_id)
        if folder is not None:
            raise RefusedError(404, f"{folder} does not exist", "EntryNotFound")
        self._answer(self._entries(repository, self._commit_of(repository, revision)))

    def _entries(self, repository: Repository, oid: str) -> list[dict[str, Any]]:
        entries = []
        for path, content in sorted(repository.commits[oid].items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content, False)}
            if (digest := hashlib.sha256(content).hexdigest()) in self.hub.large:
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id)
        oid = self._commit_of(repository, revision)
        content = repository.commits[oid].get(path)
        if content is None:
            raise RefusedError(404, f"Entry not found: {path}", "EntryNotFound")
        self._answer(content, headers={"X-Repo-Commit": oid, "ETag": f'"{_blob_id(content, False)}"'})


class ConnectionCutError(Exception):
    """The connection is gone: there is nobody to answer."""


def _blob_id(content: bytes, is_large: bool) -> str:
    """As the Hub compares files: Git's digest, or SHA-256 for large ones."""
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO = r"(?P<repo_id>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_card"),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<branch>.+)", "make_branch"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "large_files"),
    ("PUT", r"/large/(?P<oid>\w+)", "put_large_file"),
    ("POST", r"/large-verify", "verify_large_file"),
    ("GET", rf"/api/models/{_REPO}", "model_info"),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>.+)", "model_info"),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>refs/pr/\d+|[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<path>.+)", "resolve"),
]
