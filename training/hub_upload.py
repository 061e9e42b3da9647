"""A folder -> one commit on the Hub: all of it or nothing, and "done" only after the Hub has been asked what it holds."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import HfHubHTTPError, get_session, hf_raise_for_status, validate_repo_id

from vanilla_transformer.training.model_card import UNPINNED

# The bases of the Hub's own error: HTTPError of httpx or httpx2, whichever huggingface_hub stands on, and OSError.
# RuntimeError is what create_commit makes of a large file that failed.
_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, RuntimeError)  # type: ignore[assignment]
_ATTEMPTS = 3
# In the root of the repository, what belongs to a model and goes when the model that is pushed has no such file: among
# others old weights, which from_pretrained prefers to the shards beside them. Nothing else there is touched.
_OWNED = """
    model*.safetensors model.safetensors.index.json pytorch_model*.bin config.json generation_config.json
    tokenizer.json tokenizer_config.json metrics.jsonl training.yaml curves.png attention.png *.py
""".split()
_NO_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$|^@?$")  # git check-ref-format
_REMEDIES = {
    401: "the token is not valid: run `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there: give it the permission, or another --repo-id",
    404: "no such repository, or the token may not see it",
    409: "somebody changes the repository at this moment: try again",
    412: "somebody has changed the repository meanwhile: try again",
}


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError for what is no "user/name"."""
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"--repo-id {repo_id!r} must be user/name, for example your-name/multi30k-en-de")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"--repo-id {repo_id!r} is no name for a repository: {error}") from error


def check_branch(branch: str) -> None:
    """Raise ValueError for what Git takes for no branch: the Hub would say so only when the repository has been made."""
    if wrong := _NO_BRANCH.search(branch):
        because = f"Git allows no {wrong[0]!r} there" if wrong[0] else "it is empty"
        raise ValueError(f"--branch {branch!r} is no name for a branch: {because}")


def hub_token() -> str:
    """From HF_TOKEN or `hf auth login`. Never a flag: a command line is seen by every user of the machine."""
    token = get_token()
    if token is None:
        raise ValueError("no token for the Hub: run `hf auth login`, or set HF_TOKEN (https://huggingface.co/settings/tokens)")
    return token


@dataclass
class Upload:
    """Where to, and how.

    Args:
        repo_id: "user/name"; made if it is not there.
        token: with the right to write.
        private: only its owners see the repository.
        branch: made if it is not there; main if not given.
        create_pr: propose the commit as a pull request, instead of making it.
        message: of the commit.
    """

    repo_id: str
    token: str
    private: bool = False
    branch: str | None = None
    create_pr: bool = False
    message: str = "Upload model"

    def __post_init__(self) -> None:
        if self.branch is not None:
            check_branch(self.branch)

    def push(self, folder: Path) -> CommitInfo:
        """All files of `folder` as one commit; then the card's `revision` is set to that commit, by a second one.

        The first one also deletes what an earlier model has left there.
        Connections that break are tried again. A pull request is not (who loses the answer would open a second one),
        and its card stays unpinned, because merging makes another commit of it.

        Raises:
            ConnectionError: with the reason, and whether the branch is as it was before, as far as that is known.
            ValueError: the Hub refuses the card; or the repository is public, and `private` was asked for.
            KeyboardInterrupt: with what is known of the commit.
        """
        self.known = "nothing has been published"  # for whoever must be told that it ended here
        try:
            return self._push(folder)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(self.known) from interrupt

    def _push(self, folder: Path) -> CommitInfo:
        self.api = HfApi(token=self.token)
        card = ModelCard.load(folder / "README.md")
        user = self._try("greet the Hub", lambda: self.api.whoami()["name"])
        self._try("have the card checked", lambda: self._check_card(card))
        self._try(
            f"make {self.repo_id} as {user}",
            lambda: self.api.create_repo(self.repo_id, private=self.private or None, exist_ok=True),
        )
        if self.private and not self._try("look at the repository", lambda: self.api.model_info(self.repo_id)).private:
            raise ValueError(f"{self.repo_id} is there already, and public: make it private first, or leave out --private")
        branch = self.branch
        if branch is not None:
            self._try(f"make branch {branch}", lambda: self.api.create_branch(self.repo_id, branch=branch, exist_ok=True))
        unsure = f"it is not known whether the commit was made, so it may have been published: look at {self._commits_url()}"
        files = {file.name: file for file in sorted(folder.iterdir())}
        made = self._commit("upload", self.message, files, unsure, whole_model=True)
        published = f"published as {made.oid}, but the card is not pinned (it still says {UNPINNED}): push again"
        self.known = f"proposed as {made.pr_url}" if self.create_pr else published
        self._check(folder, made.pr_revision or made.oid)
        if not self.create_pr:
            self._pin(card, made.oid)
        return made

    def _check_card(self, card: ModelCard) -> None:
        """Before anything is made. (Not `card.validate`, which in huggingface_hub 1 asks no Hub but the one.)"""
        asked = {"repoType": "model", "content": str(card)}
        answer = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=asked)
        if answer.status_code == 400:
            errors = "; ".join(error["message"] for error in answer.json()["errors"])
            raise ValueError(f"the Hub refuses the card: {errors}")
        hf_raise_for_status(answer)

    def _commits_url(self) -> str:
        page = "discussions" if self.create_pr else f"commits/{self.branch or 'main'}"
        return f"{self.api.endpoint}/{self.repo_id}/{page}"

    def _commit(
        self, what: str, message: str, files: dict[str, Any], unsure: str, whole_model: bool = False
    ) -> CommitInfo:
        """`unsure` is what is known from the moment when the Hub is asked for the commit, until it answers."""

        def commit() -> CommitInfo:
            # New ones for each attempt: create_commit writes its progress into them, and an attempt whose answer was
            # lost has already deleted.
            additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
            there = self.api.model_info(self.repo_id, revision=self.branch).siblings or [] if whole_model else []
            stale = _stale([file.rfilename for file in there], files)
            # create_commit would do this too; but here it is certain that a failure is one before the commit.
            self.api.preupload_lfs_files(
                self.repo_id, additions, revision=self.branch, create_pr=self.create_pr, free_memory=False
            )
            known, self.known = self.known, unsure
            try:
                return self.api.create_commit(
                    self.repo_id,
                    [*additions, *(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in stale)],
                    commit_message=message,
                    revision=self.branch,
                    create_pr=self.create_pr,
                )
            except HfHubHTTPError as error:
                if 400 <= error.response.status_code < 500:  # refused; yet an earlier attempt may have been made
                    self.known = known
                raise

        return self._try(what, commit, attempts=1 if self.create_pr else _ATTEMPTS, tell_known=True)

    def _check(self, folder: Path, revision: str) -> None:
        """Ask the Hub for the digest of every file it now has: SHA-256 of the large ones, Git's of the others."""
        info = self._try(
            "ask what arrived",
            lambda: self.api.model_info(self.repo_id, revision=revision, files_metadata=True),
            tell_known=True,
        )
        there = {file.rfilename: file for file in info.siblings or []}
        if stale := _stale(there, {file.name for file in folder.iterdir()}):
            raise ConnectionError(f"{stale[0]}, of another model, is still on the Hub ({self.repo_id}, {revision}): push again")
        for file in folder.iterdir():
            arrived = there.get(file.name)
            if arrived is None or not _same(file, arrived):
                raise ConnectionError(f"{file.name} is not on the Hub as it is here ({self.repo_id}, {revision}): push again")

    def _pin(self, card: ModelCard, revision: str) -> None:
        pinned = str(card).replace(UNPINNED, f'revision="{revision}"').encode()
        unsure = f"published as {revision}, but it is not known whether the card is pinned: look at {self._commits_url()}"
        self._commit("pin the card", "Pin the revision in the card", {"README.md": pinned}, unsure)

    def _try(self, what: str, action, attempts: int = _ATTEMPTS, tell_known: bool = False) -> Any:
        for attempt in range(attempts):
            try:
                return action()
            except _FAILURES as error:
                # huggingface_hub tells why a large file failed as the cause of a RuntimeError.
                reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
                status = getattr(getattr(reason, "response", None), "status_code", None)
                final = status is not None and status < 500 and status != 429  # what the Hub refuses, it refuses again
                if final or attempt == attempts - 1:
                    which_file = "" if reason is error else f"{' '.join(str(error).split())} "
                    known = f"; {self.known}" if tell_known else ""
                    raise ConnectionError(f"could not {what}: {which_file}{_told(reason, status)}{known}") from error
                time.sleep(2**attempt)


def _same(file: Path, arrived: RepoSibling) -> bool:
    if arrived.lfs:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == arrived.lfs.sha256
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == arrived.blob_id


def _stale(there: Iterable[str], pushed: Container[str]) -> list[str]:
    """What belongs to a model, and not to the one that is pushed."""
    names = [name for name in there if "/" not in name and name not in pushed]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _OWNED)]


def _told(reason: BaseException, status: int | None) -> str:
    said = getattr(reason, "server_message", None) or next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    remedy = _REMEDIES.get(status or 0)
    return f"{said} ({remedy})" if remedy else said
