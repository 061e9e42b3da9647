"""One commit or nothing, against a stand-in for the Hub on loopback."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import HfHubHTTPError

from vanilla_transformer.training import hub_upload
from vanilla_transformer.training.hub_upload import Upload, check_branch, check_repo_id, hub_token
from vanilla_transformer.training.prediction import training_flags

# huggingface_hub itself uploads large files in a way that its HTTP client discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NOTHING = "nothing has been published$"
UNKNOWN = r"it is not known whether the commit was made, so it may have been published: look at http://[\w.:]+/ada/model/"
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


def test_the_flags_of_its_training_are_had_of_a_published_model(hub, folder, tmp_path, monkeypatch):
    upload().push(folder)
    where = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", where)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    assert training_flags("ada/model") == {}
    (folder / "training.yaml").write_text("flags: {task: dialogue}\n", encoding="utf-8")
    upload().push(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert training_flags("ada/model") == {"task": "dialogue"}


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


@pytest.mark.parametrize("fault", [None, "cut commit", "lose answer"])
def test_shards_replace_whole_weights_and_bare_files_those_of_a_run(hub, folder, fault):
    others = {"notes.md": b"ours", "checkpoint/model.safetensors": b"theirs", "vocabulary.txt": b"a"}
    run = ("metrics.jsonl", "training.yaml", "curves.png", "attention.png", "generation_config.json", "modeling.py")
    for name in run:
        (folder / name).write_text(name)
    upload().push(folder)
    hub.files("ada/model").update(others)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    for name in run:
        (folder / name).unlink()
    if fault:
        hub.faults[fault] = 1
    made = upload(message="Sharded").push(folder)
    expected = content(folder).keys() | others.keys() | {".gitattributes"}
    assert hub.files("ada/model").keys() == hub.files("ada/model", made.oid).keys() == expected
    assert hub.repositories["ada/model"].messages[3:] == ["Sharded", "Pin the revision in the card"]


def test_a_pull_request_and_a_branch_delete_only_there(hub, folder):
    upload().push(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    upload(create_pr=True).push(folder)
    upload(branch="sharded").push(folder)
    for revision in ("refs/pr/1", "sharded"):
        assert "model.safetensors" not in hub.files("ada/model", revision)
    assert "model.safetensors" in hub.files("ada/model")


@pytest.mark.parametrize(
    "owner, step, options, said",
    [
        (HfApi, "whoami", {}, NOTHING),
        (HfApi, "preupload_lfs_files", {}, NOTHING),
        (HfApi, "create_commit", {}, f"{UNKNOWN}commits/main$"),
        (HfApi, "create_commit", {"branch": "v2"}, f"{UNKNOWN}commits/v2$"),
        (HfApi, "create_commit", {"create_pr": True}, f"{UNKNOWN}discussions$"),
        (Upload, "_check", {}, r"published as {oid}, but the card is not pinned .it still says"),
        (Upload, "_check", {"create_pr": True}, "proposed as http://.*/ada/model/discussions/1$"),
    ],
)
def test_who_interrupts_is_told_what_is_known(hub, folder, monkeypatch, owner, step, options, said):
    def interrupted(self, *arguments, **named):
        original(self, *arguments, **named)
        raise KeyboardInterrupt

    original = getattr(owner, step)
    monkeypatch.setattr(owner, step, interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        upload(**options).push(folder)
    heads = hub.repositories["ada/model"].heads if hub.repositories else {"main": ""}
    assert re.match(said.replace("{oid}", heads["main"]), str(stopped.value))
    messages = [message for repository in hub.repositories.values() for message in repository.messages]
    assert ("Upload model" in messages) == (said != NOTHING)


def test_a_file_of_an_older_model_that_stayed_is_never_announced_as_done(hub, folder, monkeypatch):
    upload().push(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")

    def commit(self, *arguments, **options):
        made = original(self, *arguments, **options)
        hub.files("ada/model")["model.safetensors"] = b"old"
        return made

    original = Upload._commit
    monkeypatch.setattr(Upload, "_commit", commit)
    with pytest.raises(ConnectionError, match="model.safetensors, of another model, is still on the Hub .ada/model, "):
        upload().push(folder)


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
        ("cut", f"could not upload: Error while uploading 'model.safetensors'.*; {NOTHING}"),
        ("cut commit", f"could not upload: .*; {UNKNOWN}commits/main$"),
        ("commit 500", f"could not upload: .*refused .500..*; {UNKNOWN}commits/main$"),
        ("commit 412", f"refused .412. .somebody has changed the repository meanwhile: try again.; {NOTHING}"),
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
    with pytest.raises(ConnectionError, match=f"could not upload: .*; {UNKNOWN}discussions$"):
        upload(create_pr=True).push(folder)
    assert sorted(hub.repositories["ada/model"].heads) == ["main", "refs/pr/1"]


@pytest.mark.parametrize("name, arrived", [("config.json", b"{"), ("config.json", b"[]"), ("model.safetensors", b"old")])
def test_a_file_that_arrived_otherwise_is_never_announced_as_done(hub, folder, monkeypatch, name, arrived):
    def commit(self, *arguments, **options):
        made = original(self, *arguments, **options)
        hub.files("ada/model")[name] = arrived
        return made

    original = Upload._commit
    monkeypatch.setattr(Upload, "_commit", commit)
    with pytest.raises(ConnectionError, match=f"{name} is not on the Hub as it is here"):
        upload().push(folder)


def test_what_is_refused_after_an_unclear_answer_may_have_been_published(hub, folder, monkeypatch):
    hub.faults["commit 500"] = 1
    monkeypatch.setattr("time.sleep", lambda seconds: hub.faults.update({"commit 412": 1}))
    with pytest.raises(ConnectionError, match=f"; {UNKNOWN}commits/main$"):
        upload().push(folder)


@pytest.mark.parametrize(
    "fault, said",
    [
        ("commit 412", r"refused .412. .*; published as \w{40}, but the card is not pinned .*: push again$"),
        ("commit 500", r"refused .500..*; published as \w{40}, but it is not known whether the card is pinned: look at "),
    ],
)
def test_a_model_whose_card_could_not_be_pinned_says_so(hub, folder, monkeypatch, fault, said):
    def commit(self, what, *arguments, **options):
        if what.startswith("pin"):
            hub.faults[fault] = 1000
        return original(self, what, *arguments, **options)

    original = Upload._commit
    monkeypatch.setattr(Upload, "_commit", commit)
    with pytest.raises(ConnectionError, match=f"^could not pin the card: .*{said}"):
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


@pytest.mark.parametrize(
    "branch", ["", " ", "v 2", "v2\n", "a..b", "a~1", "a^", "a:b", "a?", "*", "a[", "a\\b", "@", "a@{1}", "/a", "a/", "a//b"]
    + ["-a", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a\x7f"]
)  # fmt: skip
def test_what_is_no_name_of_a_branch_is_refused_before_anything_is_made(hub, branch):
    for refuses in (check_branch, lambda branch: upload(branch=branch)):
        with pytest.raises(ValueError, match="^--branch .* is no name for a branch: [^\n]+$"):
            refuses(branch)
    assert not hub.requests


def test_names_of_branches():
    for branch in ("main", "v2", "a/b", "release-1.0", "größer", "a@b", "a.locks", "refs/pr/1"):
        check_branch(branch)


def test_the_stand_in_makes_no_branch_that_git_would_not(hub, folder):
    upload().push(folder)
    with pytest.raises(HfHubHTTPError, match="Invalid ref name: v 2"):
        HfApi(token="ada-token").create_branch("ada/model", branch="v 2")


def test_without_a_token_the_way_to_one_is_told(monkeypatch):
    monkeypatch.setattr(hub_upload, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token for the Hub: run `hf auth login`, or set HF_TOKEN"):
        hub_token()
