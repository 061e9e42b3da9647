"""One commit or nothing, against a stand-in for the Hub on loopback."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from vanilla_transformer.training import hub_upload
from vanilla_transformer.training.hub_upload import Upload, check_repo_id, hub_token

# huggingface_hub itself uploads large files in a way that its HTTP client discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = '---\nlicense: {license}\n---\n# A model\n\nfrom_pretrained("ada/model", revision="main")\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Hub of this process, which otherwise knows none. It waits for nothing."""
    file = Path(__file__).parents[1] / "hub_stand_in.py"
    spec = importlib.util.spec_from_file_location("hub_stand_in", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_stand_in", module)
    spec.loader.exec_module(module)
    with module.HubStandIn() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks Git LFS
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "README.md").write_text(CARD.format(license="mit"))
    (tmp_path / "staged" / "config.json").write_text("{}")
    (tmp_path / "staged" / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    return tmp_path / "staged"


def upload(**options: Any) -> Upload:
    return Upload(**{"repo_id": "ada/model", "token": "ada-token", **options})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_everything_arrives_as_one_commit_and_the_card_is_pinned_to_it(hub, folder):
    made = upload(message="First try").push(folder)
    repository = hub.repositories["ada/model"]
    assert repository.messages == ["initial commit", "First try", "Pin the revision in the card"]
    arrived = hub.files("ada/model", made.oid)
    assert {name: arrived[name] for name in content(folder)} == content(folder)
    pinned = hub.files("ada/model")
    assert f'revision="{made.oid}"' in pinned.pop("README.md").decode()
    arrived.pop("README.md")
    assert pinned == arrived and not repository.private
    assert folder.joinpath("model.safetensors").read_bytes() in hub.large.values()  # by the road for large files
    assert folder.joinpath("config.json").read_bytes() not in hub.large.values()


def test_a_private_repository_a_branch_and_a_message(hub, folder):
    made = upload(private=True, branch="v2", message="Second").push(folder)
    assert hub.repositories["ada/model"].private
    assert list(hub.files("ada/model", "main")) == [".gitattributes"]
    assert hub.files("ada/model", "v2").keys() - {".gitattributes"} == content(folder).keys()
    assert made.oid in hub.files("ada/model", "v2")["README.md"].decode()


def test_a_pull_request_to_somebody_else_changes_nothing_of_theirs(hub, folder):
    upload().push(folder)
    before, commits = hub.files("ada/model"), len(hub.repositories["ada/model"].messages)
    (folder / "config.json").write_text('{"better": 1}')
    made = upload(token="bob-token", create_pr=True).push(folder)
    assert made.pr_url == f"{hub.endpoint}/ada/model/discussions/1"
    assert hub.files("ada/model", "refs/pr/1")["config.json"] == b'{"better": 1}'
    assert hub.files("ada/model") == before and len(hub.repositories["ada/model"].messages) == commits + 1


def test_a_repository_that_exists_gets_what_has_changed(hub, folder):
    upload().push(folder)
    (folder / "config.json").write_text('{"changed": true}')
    hub.requests.clear()
    upload(message="Again").push(folder)
    assert hub.files("ada/model")["config.json"] == b'{"changed": true}'
    assert not [path for method, path in hub.requests if method == "PUT"]  # the weights are there already


def test_a_public_repository_is_no_place_for_a_private_model(hub, folder):
    upload().push(folder)
    before = hub.files("ada/model")
    (folder / "config.json").write_text("secret")
    with pytest.raises(ValueError, match="ada/model is there already, and public: make it private first"):
        upload(private=True).push(folder)
    assert hub.files("ada/model") == before


@pytest.mark.parametrize("fault", ["cut", "cut commit", "commit 500", "lose answer"])
def test_what_breaks_once_is_tried_again(hub, folder, fault):
    hub.faults[fault] = 1
    made = upload().push(folder)
    assert hub.faults[fault] == 0  # it did break
    arrived = hub.files("ada/model", made.oid)
    assert {name: arrived[name] for name in content(folder)} == content(folder)
    assert hub.repositories["ada/model"].messages.count("Upload model") == 1


@pytest.mark.parametrize(
    "fault, said",
    [
        ("cut", "could not upload; nothing has been published: Error while uploading 'model.safetensors'"),
        ("cut commit", "could not upload; nothing has been published: "),
        ("commit 500", "could not upload; nothing has been published: .*refused .500."),
        ("commit 412", "the commit was refused .412. .somebody has changed the repository meanwhile: try again."),
    ],
)
def test_what_keeps_breaking_leaves_the_repository_as_it_was(hub, folder, fault, said):
    hub.faults[fault] = 1000
    with pytest.raises(ConnectionError, match=said):
        upload().push(folder)
    assert hub.files("ada/model").keys() == {".gitattributes"}
    assert hub.repositories["ada/model"].messages == ["initial commit"]
    if fault == "commit 412":
        assert hub.faults[fault] == 999  # what is refused is not tried again


def test_a_pull_request_whose_answer_is_lost_is_not_made_twice(hub, folder):
    hub.repositories.clear()
    upload().push(folder)
    hub.faults["lose answer"] = 1
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConnectionError):
        upload(create_pr=True).push(folder)
    assert sorted(hub.repositories["ada/model"].heads) == ["main", "refs/pr/1"]


def test_a_file_that_arrived_otherwise_is_never_announced_as_done(hub, folder, monkeypatch):
    def commit(self, *arguments):
        made = original(self, *arguments)
        hub.files("ada/model")["config.json"] = b"{"
        return made

    original = Upload._commit
    monkeypatch.setattr(Upload, "_commit", commit)
    with pytest.raises(ConnectionError, match="config.json is not on the Hub as it is here"):
        upload().push(folder)


def test_a_model_whose_card_could_not_be_pinned_says_so(hub, folder, monkeypatch):
    def commit(self, message, files):
        if message.startswith("Pin"):
            hub.faults["commit 412"] = 1
        return original(self, message, files)

    original = Upload._commit
    monkeypatch.setattr(Upload, "_commit", commit)
    with pytest.raises(ConnectionError, match=r"the model is published, whole, as \w{40}, but its card still says"):
        upload().push(folder)
    assert hub.files("ada/model")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"token": "wrong"}, "could not greet the Hub: .*Invalid.*the token is not valid: run `hf auth login`"),
        ({"token": "bob-token"}, "could not make ada/model as bob: .*may not create ada/model .the token may not write"),
    ],
)
def test_who_may_not_is_refused_and_nothing_is_made(hub, folder, options, said):
    with pytest.raises(ConnectionError, match=said):
        upload(**options).push(folder)
    assert not hub.repositories and not hub.large


def test_a_card_that_the_hub_refuses_makes_no_repository(hub, folder):
    (folder / "README.md").write_text(CARD.format(license="whatever"))
    with pytest.raises(ValueError, match="the Hub refuses the card: .*license.* must be one of apache-2.0, mit$"):
        upload().push(folder)
    assert not hub.repositories and not hub.large


@pytest.mark.parametrize("repo_id", ["model", "a/b/c", "/model", "ada/", "ada/mo del", "ada/-model", "ada/model.git"])
def test_what_is_no_name_of_a_repository(repo_id):
    with pytest.raises(ValueError, match="--repo-id"):
        check_repo_id(repo_id)
    check_repo_id("ada/Model_1.0-de")


def test_without_a_token_the_way_to_one_is_told(monkeypatch):
    monkeypatch.setattr(hub_upload, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token for the Hub: run `hf auth login`, or set HF_TOKEN"):
        hub_token()
