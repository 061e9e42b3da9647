"""The promises of the loop: one gradient however an update is cut, resume bit for bit, nothing lost, the best is kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training import accelerator, loop
from vanilla_transformer.training.accelerator import make_accelerator
from vanilla_transformer.training.checksums import write_checksums
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.schedules import inverse_sqrt, noam
from vanilla_transformer.training.token_batches import TokenBatches
from vanilla_transformer.training.translation import TranslationTask
from vanilla_transformer.training.updates import NonFiniteLossError

# With a large epsilon Adam's step is proportional to the gradient, so that equal weights mean equal gradients; with
# the usual one a rounding error in a tiny gradient would become a whole step.
PROPORTIONAL: dict[str, Any] = {"adam_epsilon": 1.0, "learning_rate": 1.0, "warmup_steps": 1, "dropout": 0.0}


class Killed(BaseException):
    """What is left of a run after kill -9: nothing of it goes on."""


def kill_before(run: Training, update: int, signals: signal.Signals | None = None) -> None:
    """Breaks the run off when it is about to make this update; or sends it a signal there."""
    original = run._update

    def make_update(*arguments: Any) -> None:
        if run.progress.update + 1 == update:
            if signals is None:
                raise Killed
            os.kill(os.getpid(), signals)
        original(*arguments)

    run._update = make_update  # type: ignore[method-assign]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def evaluations(run: Training) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("seconds", "sentences_per"))} for row in run.folder.metrics()
    ]


# ------------------------------------------------------------------------------------------------------- an update


@pytest.fixture
def four_batches(training) -> int:
    """`max_tokens` with which an epoch of the toy corpus is four batches, of quite different numbers of target tokens."""
    lengths = training("lengths").task.train.lengths
    budget = next(most for most in range(100, 4096) if TokenBatches(lengths, most, 1).batches_in_epoch() == 4)
    targets = [int(lengths[part, 1].sum()) for part in TokenBatches(lengths, budget, 1).epoch_batches(0)]
    assert max(targets) > 1.2 * min(targets)  # or a mean of means would be right, too
    return budget


def test_one_batch_or_four_give_the_same_update_although_they_differ_in_tokens(training, four_batches):
    whole = training("whole", validation_file=[], max_steps=2, max_tokens=4096, **PROPORTIONAL)
    parts = training(
        "parts", validation_file=[], max_steps=2, max_tokens=four_batches, accumulation_steps=4, **PROPORTIONAL
    )
    start = {key: tensor.clone() for key, tensor in whole.plain.state_dict().items()}
    whole.run()
    parts.run()
    assert (whole.progress.update, whole.progress.batches) == (2, 2)
    assert (parts.progress.update, parts.progress.batches) == (2, 8)
    for key, tensor in whole.plain.state_dict().items():
        assert (tensor - start[key]).abs().max() > 1e-3, key
        torch.testing.assert_close(parts.plain.state_dict()[key], tensor, rtol=1e-4, atol=2e-6, msg=key)


def test_the_loss_that_is_logged_is_the_mean_over_the_tokens_of_the_update(training, four_batches):
    run = training(max_steps=1, max_tokens=four_batches, accumulation_steps=4, dropout=0.0)
    everything = [(0, index) for index in range(len(run.task.train.lengths))]
    with torch.no_grad():
        expected = run.plain.eval()(**run.task.collator(run.task.train.examples.__getitems__(everything))).loss.item()
    run.run()
    assert evaluations(run)[0]["train_loss"] == pytest.approx(expected, abs=2e-5)


def test_units_are_dropped_while_it_trains_and_also_after_an_evaluation(training):
    losses = {}
    for dropout in (0.0, 0.5):
        run = training(f"{dropout}", dropout=dropout, max_steps=3, eval_steps=1, learning_rate=1e-9)
        run.run()  # the weights hardly change: what differs is what was dropped
        losses[dropout] = [row["train_loss"] for row in evaluations(run)]
    assert losses[0.0] == pytest.approx([losses[0.0][0]] * 3, abs=0.2)
    assert all(abs(one - other) > 1e-4 for one, other in zip(losses[0.0], losses[0.5], strict=True)), losses


def test_the_schedule_counts_updates_from_one_and_never_micro_batches(training):
    for name, flags, expected in (
        ("peak", {"learning_rate": 0.01}, [inverse_sqrt(update, 0.01, 2) for update in range(1, 5)]),
        ("noam", {"learning_rate": None, "noam_factor": 2.0}, [noam(update, 16, 2, 2.0) for update in range(1, 5)]),
    ):
        run = training(name, accumulation_steps=3, max_steps=4, warmup_steps=2, validation_file=[], **flags)
        rates = []
        step = run.optimizer.step
        run.optimizer.step = lambda rates=rates, run=run, step=step: (
            rates.append(run.optimizer.param_groups[0]["lr"]), step()
        )  # fmt: skip
        run.run()
        assert rates == expected


def test_gradients_are_clipped_to_the_norm_only_if_asked(training):
    norms = {}
    for limit in (0.0, 0.01):
        run = training(f"{limit}", max_grad_norm=limit, max_steps=1, validation_file=[])
        step = run.optimizer.step

        def spy(run=run, step=step, limit=limit):
            norms[limit] = torch.nn.utils.get_total_norm([p.grad for p in run.plain.parameters()]).item()
            step()

        run.optimizer.step = spy
        run.run()
    assert norms[0.0] > 0.1 and norms[0.01] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_the_papers_unless_told_otherwise(training, weight_decay):
    optimizer = training(weight_decay=weight_decay).optimizer.optimizer
    assert type(optimizer) is (torch.optim.AdamW if weight_decay else torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-9, weight_decay)


def test_gradient_checkpointing_changes_nothing_but_the_memory(training):
    states = []
    for checkpointing in (False, True):
        run = training(f"{checkpointing}", gradient_checkpointing=checkpointing, max_steps=2, validation_file=[])
        assert run.plain.model.encoder.gradient_checkpointing is checkpointing
        run.run()
        states.append(run.plain.state_dict())
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, msg=key)


# ----------------------------------------------------------------------------------------------------------- resume

RESUMED = {
    "max_steps": 8,
    "save_steps": 4,
    "eval_steps": 3,
    "keep_checkpoints": 0,
    "dropout": 0.3,
    "accumulation_steps": 2,
}


@pytest.mark.parametrize("kind", ["translation", "denoising"])
def test_killed_and_resumed_is_never_killed_bit_for_bit(training, saved_state, toy, kind):
    flags: dict[str, Any] = {**RESUMED, "max_tokens": 100}
    if kind == "denoising":
        flags |= {"kind": DenoisingTask, "validation_file": [str(toy / "text.txt")], "max_tokens": 200}
    whole = training("whole", **flags)
    whole.run()

    broken = training("broken", **flags)
    kill_before(broken, 7)
    with pytest.raises(Killed):
        broken.run()
    assert [row["step"] for row in broken.folder.metrics()] == [3, 6]  # 6 is after the checkpoint: to be made again
    resumed = training("broken", resume=True, **flags)
    assert resumed.folder.newest_checkpoint().name == "step-4"
    resumed.run()

    per_epoch = whole.batches.batches_in_epoch()
    assert (4 * 2) % per_epoch != 0 and 8 * 2 > per_epoch  # from the middle of an epoch into the next
    assert evaluations(resumed) == evaluations(whole)
    assert [row["step"] for row in evaluations(resumed)] == [3, 6, 8]
    ours, theirs = (saved_state(run.folder.checkpoints / "step-8") for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []
    published = [weights(run.folder.path) for run in (resumed, whole)]
    assert all(torch.equal(published[0][key], published[1][key]) for key in published[1])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random_state_0.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_bit_for_bit(training, saved_state, capsys, name):
    flags = {**RESUMED, "save_steps": 2}
    whole = training("whole", **flags)
    whole.run()
    broken = training("broken", **flags)
    kill_before(broken, 7)
    with pytest.raises(Killed):
        broken.run()
    file = broken.folder.checkpoints / "step-6" / name
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    resumed = training("broken", resume=True, **flags)
    resumed.run()
    said = capsys.readouterr().out
    assert f"step-6 is damaged: {name} has other bytes than were written. The one before it is taken instead.\n" in said
    ours, theirs = (saved_state(run.folder.checkpoints / "step-8") for run in (resumed, whole))
    assert [key for key in ours if ours[key] != theirs[key]] == []


def test_a_corpus_that_has_changed_between_is_refused_or_told(training, toy, tmp_path, capsys):
    file = tmp_path / "train.jsonl"
    lines = (toy / "train.jsonl").read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines), encoding="utf-8")
    flags = {**RESUMED, "train_file": [str(file)]}
    training("run", **{**flags, "max_steps": 4}).run()
    lines[3], lines[4] = lines[4], lines[3]  # nothing that lengths would tell
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="^--resume: the training rows are not those that the run began with .* --override"):
        training("run", resume=True, **flags).run()
    training("run", resume=True, override=True, **flags).run()
    assert "Resuming, but the training rows are not those that the run began with" in capsys.readouterr().out


def test_if_every_checkpoint_is_damaged_the_run_says_so(training):
    training("run", **{**RESUMED, "max_steps": 4, "save_steps": 2}).run()
    folders = sorted((training("other", **RESUMED).folder.path.parent / "run" / "checkpoints").glob("step-*"))
    for folder in folders:
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-4 is damaged: model.safetensors has 0 bytes of .*; .*step-2 is damaged: model"):
        training("run", resume=True, **{**RESUMED, "save_steps": 2}).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_after_the_update_and_resume_goes_on_bit_for_bit(training, saved_state, number):
    flags = {**RESUMED, "save_steps": 0}
    whole = training("whole", **flags)
    whole.run()
    stopped = training("stopped", **flags)
    kill_before(stopped, 5, number)
    with pytest.raises(KeyboardInterrupt, match="update 5 is saved; continue with the same flags and --resume"):
        stopped.run()
    assert [path.name for path in stopped.folder.checkpoints.iterdir()] == ["step-5"]
    resumed = training("stopped", resume=True, **flags)
    resumed.run()
    assert evaluations(resumed) == evaluations(whole)
    ours, theirs = (saved_state(run.folder.checkpoints / "step-8") for run in (resumed, whole))
    assert [key for key in ours if ours[key] != theirs[key]] == []


def test_a_signal_in_the_last_update_is_obeyed_too(training):
    flags = {"max_steps": 2, "validation_file": []}
    run = training("run", **flags)
    kill_before(run, 2, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="update 2 is saved"):
        run.run()
    assert run.folder.newest_checkpoint().name == "step-2"


def test_a_signal_while_the_last_model_is_judged_loses_nothing(training, monkeypatch):
    run = training("run", max_steps=2)
    monkeypatch.setattr(run.task, "score", lambda *arguments: os.kill(os.getpid(), signal.SIGINT) or {})
    with pytest.raises(KeyboardInterrupt, match="update 2 is saved"):
        run.run()
    assert run.folder.newest_checkpoint().name == "step-2"
    assert [row["step"] for row in run.folder.metrics()] == [2]


def test_more_updates_than_first_asked_for(training, saved_state):
    flags = {**RESUMED, "eval_steps": 4}
    training("whole", **flags).run()
    training("part", **{**flags, "max_steps": 4}).run()
    training("part", resume=True, **flags).run()
    folders = [training(name, resume=True, **flags).folder for name in ("part", "whole")]
    ours, theirs = (saved_state(folder.checkpoints / "step-8") for folder in folders)
    assert [key for key in ours if ours[key] != theirs[key]] == []


def test_another_number_of_processes_goes_on_with_the_same_rows(training, saved_state):
    """8 batches of one process are 4 of each of two; the rows are the same, and so, without dropout, is the model."""
    flags = {**RESUMED, "eval_steps": 100, "dropout": 0.0}
    training("whole", **flags).run()
    training("part", **{**flags, "max_steps": 4}).run()
    progress = training("part", resume=True, **flags).folder.checkpoints / "step-4" / "progress.json"
    state = json.loads(progress.read_text())
    assert (state["processes"], state["batches"]) == (1, 8)
    progress.write_text(json.dumps(state | {"processes": 2, "batches": 4}))
    write_checksums(progress.parent)
    resumed = training("part", resume=True, **flags)
    resumed.run()
    ours, theirs = (resumed.folder.path.parent / name / "checkpoints" / "step-8" for name in ("part", "whole"))
    assert all(torch.equal(weights(ours)[key], tensor) for key, tensor in weights(theirs).items())
    assert (resumed.progress.processes, resumed.progress.batches) == (1, 16)


def as_if_written_by(run: Training, processes: int) -> None:
    """The newest checkpoint, as that many processes would have left it."""
    progress = run.folder.checkpoints / "step-4" / "progress.json"
    state = json.loads(progress.read_text())
    each = state["batches_per_update"] // processes
    progress.write_text(json.dumps(state | {"processes": processes, "batches": 4 * each}))
    write_checksums(progress.parent)


def test_another_number_of_processes_keeps_the_batches_of_an_update(training, capsys):
    """2 processes with 1 batch, then 1 process: it must add up 2, whatever the flag says, and say so."""
    flags = {**RESUMED, "eval_steps": 100, "dropout": 0.0}
    training("whole", **flags).run()  # 2 batches an update
    first = training("part", **{**flags, "max_steps": 4})
    first.run()
    as_if_written_by(first, 2)
    capsys.readouterr()
    resumed = training("part", resume=True, **{**flags, "accumulation_steps": 1})
    resumed.run()
    said = "Resuming with 1 x 2 batches an update (processes x accumulated) instead of 2 x 1: as many tokens as before."
    assert said in capsys.readouterr().out
    ours, theirs = (resumed.folder.path.parent / name / "checkpoints" / "step-8" for name in ("part", "whole"))
    assert all(torch.equal(weights(ours)[key], tensor) for key, tensor in weights(theirs).items())
    again = training("part", resume=True, **{**flags, "accumulation_steps": 1, "max_steps": 9})
    again.run()  # the flag still says 1, and the run still has 2
    assert again.progress.batches == 18


def test_an_update_has_other_batches_where_these_are_wanted(training, capsys):
    flags = {**RESUMED, "eval_steps": 100, "accumulation_steps": 3}
    first = training("part", **{**flags, "max_steps": 4})
    first.run()
    assert (first.progress.batches_per_update, first.progress.accumulation_steps) == (3, 3)
    wanted = training("part", resume=True, override=True, **{**flags, "accumulation_steps": 2})
    wanted.run()
    assert "instead of 1 x 3: 2 batches instead of 3." in capsys.readouterr().out
    assert wanted.progress.batches == 4 * 3 + 4 * 2


def test_resuming_a_run_that_is_over_changes_nothing(training, toy):
    flags = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "average_last": 2, "patience": 2}
    flags |= {"test_file": [str(toy / "validation.jsonl")]}
    run = scored(training, [10.0, 20.0, 40.0, 15.0], **flags)  # the average, with 40, is the best
    run.run()
    files = {path.name: path.read_bytes() for path in run.folder.path.glob("*") if path.is_file()}
    changing = {"metrics.jsonl", "training.yaml", "curves.png"}  # times, and the flag --resume
    again = scored(training, [15.0], resume=True, **flags)
    again.run()
    key = lambda row: (row["split"], row["step"], "averaged" in row)  # noqa: E731
    assert len(evaluations(again)) == 4
    assert sorted(evaluations(again), key=key) == sorted(evaluations(run), key=key)
    assert {**vars(again.progress), "seconds": 0} == {**vars(run.progress), "seconds": 0}
    for name, content in files.items():
        assert name in changing or (run.folder.path / name).read_bytes() == content, name


def test_a_full_disk_ends_the_run_with_the_earlier_checkpoint(training, monkeypatch):
    run = training(max_steps=8, save_steps=2, validation_file=[])
    original = run.optimizer.step

    def fill_the_disk():
        original()
        if run.progress.update == 2:  # the third update; the first checkpoint is there

            def rename(*arguments):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(Path, "rename", rename)

    run.optimizer.step = fill_the_disk
    with pytest.raises(OSError, match="step-4 could not be written .*No space left on device"):
        run.run()
    monkeypatch.undo()
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step-2"]


# ------------------------------------------------------------------------------------------------- non-finite loss


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_update_and_names_step_and_rows(training, bad):
    run = training(
        max_steps=8, save_steps=1, keep_checkpoints=0, accumulation_steps=2, validation_file=[], max_tokens=90
    )
    calls = []
    forward = run.model.forward

    def spoiled(**batch):
        output = forward(**batch)
        calls.append(batch)
        if len(calls) == 6:  # the second batch of the third update
            output.loss = output.loss * bad
        return output

    run.model.forward = spoiled
    with pytest.raises(NonFiniteLossError) as stopped:
        run.run()
    sampler = iter(TokenBatches(run.task.train.lengths, 90, run.flags.seed))
    fine, guilty = [[index + 1 for _, index in next(sampler)] for _ in range(6)][4:]
    assert fine != guilty
    assert f"the loss is {bad} at update 3, before the weights" in str(stopped.value)
    assert f"train rows {', '.join(map(str, guilty))}. Checkpoints stand as they were" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    newest = run.folder.newest_checkpoint()
    assert newest.name == "step-2"
    saved = weights(newest)
    assert all(torch.equal(parameter, saved[name]) for name, parameter in run.plain.named_parameters() if name in saved)


def test_a_gradient_that_is_not_finite_stops_before_the_update_too(training):
    run = training(max_steps=8, save_steps=1, keep_checkpoints=0, validation_file=[])
    calls = []

    def spoil(gradient):
        calls.append(gradient)
        return gradient * float("inf") if len(calls) == 3 else gradient

    run.plain.model.encoder.layers[0].feed_forward.fc1.weight.register_hook(spoil)
    with pytest.raises(NonFiniteLossError, match="the norm of the gradient is (inf|nan) at update 3, before the weights"):
        run.run()
    saved = weights(run.folder.newest_checkpoint())
    assert run.folder.newest_checkpoint().name == "step-2"
    assert all(torch.equal(parameter, saved[name]) for name, parameter in run.plain.named_parameters() if name in saved)


def test_rows_are_named_as_they_are_counted_in_the_users_file(training, toy, tmp_path):
    lines = (toy / "train.jsonl").read_text(encoding="utf-8").splitlines()
    lines.insert(0, json.dumps({"translation": {"en": "", "de": "leer"}}))
    (tmp_path / "spoiled.jsonl").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    run = training(train_file=[str(tmp_path / "spoiled.jsonl")], validation_file=[], max_tokens=4096)
    forward = run.model.forward
    run.model.forward = lambda **batch: forward(**{**batch, "num_items_in_batch": 0.0})
    with pytest.raises(NonFiniteLossError, match="at update 1, .* train rows (2, 3|3, 2). Checkpoints"):
        run.run()


# -------------------------------------------------------------------------------------------- best, last, averaged


class Scored(TranslationTask):
    """Its BLEU is given beforehand, one number an evaluation."""

    scores: list[float] = []

    def score(self, *arguments: Any) -> dict[str, Any]:
        return {"bleu": self.scores.pop(0), "chrf": 1.0, "exact": 0.0}


def scored(training, scores: list[float], **flags: Any) -> Training:
    flags = {"max_steps": 8, "eval_steps": 1, "save_steps": 1, "keep_checkpoints": 0, **flags}
    run = training(flags.pop("folder", "run"), Scored, **flags)
    run.task.scores = scores
    return run


def test_the_best_model_is_at_the_root_and_not_the_last(training):
    run = scored(training, [10.0, 30.0, 20.0, 29.9], max_steps=4)
    run.run()
    at_root, best, last = (
        weights(folder)
        for folder in (run.folder.path, run.folder.checkpoints / "step-2", run.folder.checkpoints / "step-4")
    )
    assert at_root.keys() == best.keys()
    assert all(torch.equal(at_root[key], best[key]) for key in best)
    assert not all(torch.equal(at_root[key], last[key]) for key in last)
    assert [row["best"] for row in run.folder.metrics()] == [True, True, False, False]
    assert run.progress.best_update == 2 and run.progress.best_score == 30.0


def test_patience_ends_the_run_after_so_many_evaluations_without_a_better_model(training, capsys):
    run = scored(training, [10.0, 30.0, 29.0, 31.0, 5.0, 30.9, 99.0], patience=2)
    run.run()
    assert run.progress.update == 6 and run.progress.best_update == 4
    assert "No better model in 2 evaluations: stopped at update 6." in capsys.readouterr().out
    assert run.folder.newest_checkpoint().name == "step-6"
    again = scored(training, [99.0], patience=2, resume=True)
    again.run()
    assert again.progress.update == 6 and again.task.scores == [99.0]


def test_the_metric_that_decides_can_be_chosen(training):
    """The loss falls while BLEU falls: each chooses another model."""
    by_bleu = scored(training, [9.0, 5.0, 1.0], folder="bleu", max_steps=3, dropout=0.0)
    by_bleu.run()
    by_loss = scored(training, [9.0, 5.0, 1.0], folder="loss", max_steps=3, dropout=0.0, best_metric="loss")
    by_loss.run()
    losses = [row["loss"] for row in by_loss.folder.metrics()]
    assert losses == sorted(losses, reverse=True)
    assert by_bleu.progress.best_update == 1 and by_loss.progress.best_update == 3
    assert by_loss.progress.best_score == -losses[2]


def test_the_best_score_survives_a_resume(training):
    run = scored(training, [30.0, 10.0], max_steps=2)
    run.run()
    longer = scored(training, [20.0, 25.0], max_steps=4, resume=True)
    longer.run()
    assert [row["best"] for row in longer.folder.metrics()] == [True, False, False, False]
    at_root, best = weights(longer.folder.path), weights(run.folder.checkpoints / "step-1")
    assert all(torch.equal(at_root[key], best[key]) for key in best)


def test_of_equal_scores_the_lower_loss_is_better(training):
    """BLEU is 0 for all texts of under four words, however good."""
    run = scored(training, [0.0, 0.0, 0.0], max_steps=3, dropout=0.0)
    run.run()
    assert [row["best"] for row in run.folder.metrics()] == [True, True, True]
    worse = scored(training, [5.0, 5.0], max_steps=2, dropout=0.0, folder="worse", learning_rate=50.0)
    worse.run()
    assert worse.folder.metrics()[1]["loss"] > worse.folder.metrics()[0]["loss"]
    assert [row["best"] for row in worse.folder.metrics()] == [True, False]


@pytest.mark.parametrize("score, wins", [(40.0, True), (20.0, False)])
def test_the_average_of_the_last_checkpoints_is_kept_if_it_is_better(training, score, wins):
    run = scored(training, [10.0, 20.0, 30.0, score], max_steps=3, average_last=2)
    run.run()
    at_root = weights(run.folder.path)
    saved = [weights(run.folder.checkpoints / f"step-{update}") for update in (2, 3)]
    for key, tensor in at_root.items():
        expected = (saved[0][key].double() + saved[1][key].double()) / 2 if wins else saved[1][key].double()
        assert torch.equal(tensor, expected.float()), key
    assert [row.get("averaged") for row in run.folder.metrics()] == [None, None, None, ["step-2", "step-3"]]
    # The last checkpoint is still the last model, and a longer run has to beat the average.
    longer = scored(training, [35.0], max_steps=4, average_last=0, resume=True)
    longer.run()
    assert longer.folder.metrics()[-1]["best"] is not wins


def test_without_a_validation_part_the_last_model_is_kept_and_tested(training, toy):
    tested = [str(toy / "validation.jsonl")]
    run = training(validation_file=[], test_file=tested, max_steps=4, save_steps=2, average_last=2, best_metric="loss")
    run.run()
    rows = run.folder.metrics()
    assert [(row["step"], row["split"], row["best"]) for row in rows[:2]] == [(4, "validation", True)] * 2
    model = AutoModelForSeq2SeqLM.from_pretrained(run.folder.path)
    assert torch.equal(model.lm_head.weight, run.plain.lm_head.weight)  # what was tested is what is there
    assert "loss" not in rows[0] and rows[2]["split"] == "test" and rows[2]["loss"] > 0


# ----------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_a_folder_that_loads_and_tells_all(training, toy, capsys):
    run = training(
        "run", TranslationTask, max_steps=4, eval_steps=2, log_steps=1, save_steps=2, precision="bf16", dropout=0.3,
        test_file=[str(toy / "validation.jsonl")], test_num_beams=2,
    )  # fmt: skip
    run.run()
    path = run.folder.path
    rows = run.folder.metrics()
    best_update = run.progress.best_update
    assert [(row["step"], row["split"]) for row in rows] == [
        (2, "validation"),
        (4, "validation"),
        (best_update, "test"),
    ]
    fields = {
        "step",
        "split",
        "epoch",
        "seconds",
        "tokens",
        "train_loss",
        "loss",
        "perplexity",
        "bleu",
        "chrf",
        "exact",
    }
    fields |= {"cut_outputs", "bleu_signature", "chrf_signature", "num_beams", "sentences_per_second", "best"}
    assert rows[0].keys() == fields and rows[0]["num_beams"] == 1 and rows[2]["num_beams"] == 2
    assert rows[1]["epoch"] == round(4 / run.batches.batches_in_epoch(), 3)
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((path / "training.yaml").read_text())["flags"]["precision"] == "bf16"

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.dtype == torch.float32  # products were rounded, weights were not
    tokenizer.check_fits(model.config)
    generation = json.loads((path / "generation_config.json").read_text())
    assert (generation["num_beams"], generation["length_penalty"], generation["length_penalty_kind"]) == (
        4,
        0.6,
        "paper",
    )
    # What the loaded model gives is what was logged: judged without dropout and without training's precision.
    best = next(row for row in rows if row["step"] == best_update)
    nll = tokens = 0.0
    for row in run.task.validation.examples.encoded:
        with torch.no_grad():
            logits = model.eval()(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).logits
        nll -= logits[0].log_softmax(-1)[range(len(row["labels"])), row["labels"]].sum().item()
        tokens += len(row["labels"])
    assert best["loss"] == pytest.approx(nll / tokens, abs=2e-5)

    said = capsys.readouterr().out
    assert "Data, train: kept all 40 rows" in said and "0 of 4 updates done." in said
    assert "update 3/4: loss " in said and "tokens/s" in said and "padding" in said and "min left" in said


def test_bf16_rounds_the_products(training):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = training(precision, precision=precision, max_steps=2, validation_file=[], dropout=0.0)
        run.run()
        losses[precision] = run.folder.metrics()[0]["train_loss"]
        assert {parameter.dtype for parameter in run.plain.parameters()} == {torch.float32}
    assert losses["fp32"] != losses["bf16"] and losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_trackers_get_the_curves(training):
    pytest.importorskip("tensorboard")
    run = training(max_steps=2, log_steps=1, accumulation_steps=2, track_with=["tensorboard"])
    run.run()
    written = b"".join(events.read_bytes() for events in run.folder.path.rglob("events.out.tfevents.*"))
    for name in (b"train/loss", b"train/learning_rate", b"train/tokens_per_second", b"validation/loss"):
        assert name in written


def test_a_tracker_that_is_not_there_is_refused_and_not_left_out(training, monkeypatch):
    monkeypatch.setattr(accelerator, "get_available_trackers", lambda: ["wandb"])
    with pytest.raises(ValueError, match="track_with=tensorboard: no such tracker is installed; there are: wandb"):
        training(track_with=["tensorboard"])


def test_machines_that_share_no_disk_are_told_so(training, monkeypatch, tmp_path):
    # As on the second machine, where another process makes the folder.
    monkeypatch.setattr(loop, "RunFolder", lambda path, *_, **__: SimpleNamespace(path=Path(path)))
    with pytest.raises(ValueError, match="output_dir .*elsewhere: this machine does not see the folder"):
        training("elsewhere")


def test_the_launcher_decides_about_processes_and_the_flags_about_precision(fresh_accelerator, tmp_path):
    from vanilla_transformer.training.arguments import RunArguments

    accelerator = make_accelerator(RunArguments(output_dir=str(tmp_path), precision="bf16"))
    assert accelerator.num_processes == 1 and accelerator.mixed_precision == "bf16"
    fresh_accelerator()
    assert make_accelerator(RunArguments(output_dir=str(tmp_path))).mixed_precision == "no"
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_model_learns_twenty_pairs_by_heart(training, toy, tmp_path):
    lines = (toy / "train.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    (tmp_path / "twenty.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    twenty = [str(tmp_path / "twenty.jsonl")]
    run = training(
        "run", TranslationTask, train_file=twenty, validation_file=twenty, d_model=32, d_ff=64, dropout=0.0,
        label_smoothing=0.0, max_tokens=4096, learning_rate=1e-2, warmup_steps=20, max_steps=120,
    )  # fmt: skip
    run.run()
    pairs = [json.loads(line)["translation"] for line in lines]
    translated = Translator.from_pretrained(run.folder.path, device="cpu")([pair["en"] for pair in pairs], num_beams=1)
    assert translated == [pair["de"] for pair in pairs]
    assert run.folder.metrics()[-1]["exact"] == 100.0
