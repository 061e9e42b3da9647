from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError

from vanilla_transformer.training import run_folder
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.run_folder import RunFolder


def folder(path: Path, train_file: str = "a.jsonl", resume: bool = False, override: bool = False, **flags) -> RunFolder:
    arguments = [DataArguments(train_file=[train_file]), RunArguments(output_dir=str(path), **flags)]
    return RunFolder(str(path), arguments, resume=resume, override=override)


def begun(path: Path, **flags) -> RunFolder:
    made = folder(path, **flags)
    (path / "checkpoints" / "step-4").mkdir(parents=True)
    return made


def test_the_description_holds_every_flag_and_the_versions(tmp_path):
    folder(tmp_path / "new" / "run", learning_rate=5e-4)
    described = yaml.safe_load((tmp_path / "new" / "run" / "training.yaml").read_text())
    assert described["flags"]["learning_rate"] == 5e-4 and described["flags"]["train_file"] == ["a.jsonl"]
    assert set(described["flags"]) >= set(RunArguments.__dataclass_fields__)
    assert {"python", "torch", "transformers", "vanilla-transformer"} <= described["versions"].keys()
    assert "git_revision" in described


def test_a_folder_with_a_run_or_a_model_or_a_file_is_refused(tmp_path):
    begun(tmp_path / "run")
    where = r"run holds a run or a model already \(training.yaml, checkpoints\); give another folder, or --resume to"
    with pytest.raises(ValueError, match=where):
        folder(tmp_path / "run")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("weeks of work")
    with pytest.raises(ValueError, match=r"\(model.safetensors\); give another folder, or delete it: it has no checkpoint"):
        folder(tmp_path / "model")
    with pytest.raises(ValueError, match="model.safetensors is a file; give the name of a folder"):
        folder(tmp_path / "model" / "model.safetensors")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]


def test_what_else_is_in_the_folder_stays(tmp_path):
    (tmp_path / "chapter1.tex").write_text("years of work")
    folder(tmp_path)
    assert (tmp_path / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a run without checkpoint", "an unfinished checkpoint"])
def test_there_must_be_a_checkpoint_to_resume_from(tmp_path, what):
    if what == "an empty folder":
        (tmp_path / "run").mkdir()
    if what in ("a run without checkpoint", "an unfinished checkpoint"):
        folder(tmp_path / "run")
    if what == "an unfinished checkpoint":
        (tmp_path / "run" / "checkpoints" / ".unfinished-step-4").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no checkpoint to resume from; leave out --resume to begin"):
        folder(tmp_path / "run", resume=True)


def test_the_newest_complete_checkpoint_is_resumed(tmp_path):
    run = begun(tmp_path / "run")
    for name in ("step-10", "step-9", ".unfinished-step-12"):
        (run.checkpoints / name).mkdir()
    assert run.newest_checkpoint() == run.checkpoints / "step-10"


def test_other_flags_are_refused_old_and_new_named_and_accepted_with_override(tmp_path, capsys):
    begun(tmp_path / "run", learning_rate=1e-3)
    expected = r"other flags than before \(train_file: \['a.jsonl'\] -> \['b.jsonl'\], learning_rate: 0.001 -> 0.002\)"
    with pytest.raises(ValueError, match=expected):
        folder(tmp_path / "run", train_file="b.jsonl", learning_rate=2e-3, resume=True)
    assert yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())["flags"]["learning_rate"] == 1e-3
    folder(tmp_path / "run", train_file="b.jsonl", learning_rate=2e-3, resume=True, override=True)
    assert "learning_rate: 0.001 -> 0.002" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())["flags"]["learning_rate"] == 2e-3
    folder(tmp_path / "run", train_file="b.jsonl", learning_rate=2e-3, resume=True)  # now these are the run's


def test_what_changes_no_number_may_change_on_resume(tmp_path):
    begun(tmp_path / "run", max_steps=4)
    other = {
        "max_steps": 9,
        "log_steps": 1,
        "eval_steps": 2,
        "save_steps": 3,
        "patience": 4,
        "track_with": ["tensorboard"],
    }
    folder(tmp_path / "run", resume=True, **other)


def test_every_flag_survives_the_description(tmp_path):
    """Numbers as YAML writes them must compare equal to themselves when they are read again."""
    begun(tmp_path / "run", adam_epsilon=1e-9, learning_rate=7e-4, max_grad_norm=0.1)
    folder(tmp_path / "run", adam_epsilon=1e-9, learning_rate=7e-4, max_grad_norm=0.1, resume=True)


def test_a_process_that_is_not_the_main_one_neither_checks_nor_writes(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    run = RunFolder(str(tmp_path), [RunArguments()], is_main=False)
    assert run.checkpoints == tmp_path / "checkpoints"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_metrics_are_lines_of_json_and_a_repeated_evaluation_replaces_its_line(tmp_path):
    run = folder(tmp_path / "run")
    run.log_metrics({"step": 2, "split": "validation", "loss": 3.0})
    run.log_metrics({"step": 4, "split": "validation", "loss": 2.0})
    run.log_metrics({"step": 4, "split": "validation", "loss": 1.5, "averaged": ["step-2", "step-4"]})
    run.log_metrics({"step": 4, "split": "test", "loss": 2.5, "text": "두 시"})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [3.0, 2.0, 1.5, 2.5] and "두 시" in lines[3]
    run.log_metrics({"step": 4, "split": "test", "loss": 2.4})
    run.log_metrics({"step": 4, "split": "validation", "loss": 1.4, "averaged": ["step-2", "step-4"]})
    assert [row["loss"] for row in run.metrics()] == [3.0, 2.0, 2.4, 1.4]
    run.forget_metrics_after(2)
    assert run.metrics() == [{"step": 2, "split": "validation", "loss": 3.0}]


def test_metrics_are_never_half_written(tmp_path, monkeypatch):
    run = folder(tmp_path / "run")
    run.log_metrics({"step": 2, "split": "validation", "loss": 3.0})

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run.log_metrics({"step": 4, "split": "validation", "loss": 2.0})
    assert run.metrics() == [{"step": 2, "split": "validation", "loss": 3.0}]


class Writes:
    """A model or a tokenizer: writes one file, or fails."""

    def __init__(self, name: str, text: str, error: Exception | None = None):
        self.name, self.text, self.error = name, text, error

    def save_pretrained(self, path: str) -> None:
        (Path(path) / self.name).write_text(self.text)
        if self.error:
            raise self.error


def test_the_best_model_is_published_whole_or_not_at_all(tmp_path):
    run = folder(tmp_path / "run")
    run.publish(Writes("model.safetensors", "first"), Writes("tokenizer.json", "first"))  # type: ignore[arg-type]
    before = sorted(os.listdir(run.path))
    assert before == ["model.safetensors", "tokenizer.json", "training.yaml"]
    for error in (SafetensorError("No space left on device"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match="No space left on device"):
            run.publish(Writes("model.safetensors", "second", error), Writes("tokenizer.json", "second"))  # type: ignore[arg-type]
        assert sorted(os.listdir(run.path)) == before
        assert (run.path / "model.safetensors").read_text() == "first"
    run.publish(Writes("model.safetensors", "third"), Writes("tokenizer.json", "third"))  # type: ignore[arg-type]
    assert (run.path / "model.safetensors").read_text() == "third"


def test_two_runs_cannot_write_into_one_folder(tmp_path):
    first, second = begun(tmp_path), folder(tmp_path, resume=True)
    with first.held():
        with pytest.raises(ValueError, match="another process is training into it; wait for it, or give another folder"):
            with second.held():
                pass
        assert (tmp_path / ".run.lock").exists(), "still the first one's"
        other_rank = RunFolder(str(tmp_path), [], is_main=False)
        with other_rank.held():
            pass
    with second.held():
        pass
    assert not (tmp_path / ".run.lock").exists()


def test_a_killed_run_holds_its_folder_no_more(tmp_path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom filelock import FileLock\n"
        "FileLock(Path(sys.argv[1]) / '.run.lock').acquire()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL and (tmp_path / ".run.lock").exists()
    with folder(tmp_path).held():
        pass
