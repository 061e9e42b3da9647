"""A folder -> one commit on the Hub: all of it or nothing, and "done" only after the Hub has been asked what it holds."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.utils import HfHubHTTPError, get_session, hf_raise_for_status, validate_repo_id

from vanilla_transformer.training.model_card import UNPINNED

# The bases of the Hub's own error: HTTPError of httpx or httpx2, whichever huggingface_hub stands on, and OSError.
# RuntimeError is what create_commit makes of a large file that failed.
_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, RuntimeError)  # type: ignore[assignment]
_ATTEMPTS = 3
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

    def push(self, folder: Path) -> CommitInfo:
        """All files of `folder` as one commit; then the card's `revision` is set to that commit, by a second one.

        Connections that break are tried again. A pull request is not (who loses the answer would open a second one),
        and its card stays unpinned, because merging makes another commit of it.

        Raises:
            ConnectionError: with the reason; the branch is as it was before.
            ValueError: the Hub refuses the card; or the repository is public, and `private` was asked for.
        """
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
        made = self._commit(self.message, {file.name: file for file in sorted(folder.iterdir())})
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

    def _commit(self, message: str, files: dict[str, Any]) -> CommitInfo:
        def commit() -> CommitInfo:
            # New ones for each attempt: create_commit writes its progress into them.
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
            return self.api.create_commit(
                self.repo_id, operations, commit_message=message, revision=self.branch, create_pr=self.create_pr
            )

        return self._try("upload; nothing has been published", commit, attempts=1 if self.create_pr else _ATTEMPTS)

    def _check(self, folder: Path, revision: str) -> None:
        """Ask the Hub for the size and the digest of every file it now has."""
        info = self._try(
            "ask what arrived", lambda: self.api.model_info(self.repo_id, revision=revision, files_metadata=True)
        )
        there = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in info.siblings or []}
        for file in folder.iterdir():
            size, digest = there.get(file.name, (None, None))
            with file.open("rb") as stream:
                same = digest is None or hashlib.file_digest(stream, "sha256").hexdigest() == digest
            if size != file.stat().st_size or not same:
                raise ConnectionError(f"{file.name} is not on the Hub as it is here ({self.repo_id}, {revision}): push again")

    def _pin(self, card: ModelCard, revision: str) -> None:
        pinned = str(card).replace(UNPINNED, f'revision="{revision}"').encode()
        try:
            self._commit("Pin the revision in the card", {"README.md": pinned})
        except ConnectionError as error:
            raise ConnectionError(
                f"the model is published, whole, as {revision}, but its card still says {UNPINNED}: {error}; push again"
            ) from error

    def _try(self, what: str, action, attempts: int = _ATTEMPTS) -> Any:
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
                    raise ConnectionError(f"could not {what}: {which_file}{_told(reason, status)}") from error
                time.sleep(2**attempt)


def _told(reason: BaseException, status: int | None) -> str:
    said = getattr(reason, "server_message", None) or next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    remedy = _REMEDIES.get(status or 0)
    return f"{said} ({remedy})" if remedy else said
