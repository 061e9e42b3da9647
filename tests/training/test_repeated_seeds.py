from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.repeated_seeds import repeat_with_seeds, summary, table
from vanilla_transformer.training.updates import NonFiniteLossError

Prepare = Callable[[list[Any]], Training]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunArguments]:
    def make(**flags: Any) -> RunArguments:
        short = {"max_steps": 2, "max_tokens": 128, "learning_rate": 3e-3, "warmup_steps": 4, "best_metric": "loss"}
        return RunArguments(output_dir=str(tmp_path / "runs"), save_steps=0, **{"seeds": 2, **short, **flags})

    return make


@pytest.fixture
def prepare(training) -> Prepare:
    """The run of RunArguments alone, all else being that of the fixture; remembers which seeds it was asked for."""

    def make(arguments: list[Any]) -> Training:
        (run,) = arguments
        make.seeds.append(run.seed)
        flags = {f.name: getattr(run, f.name) for f in fields(run)}
        made = training(flags.pop("output_dir"), **flags)
        # What the seeds compare is what the run was given.
        made.folder.flags.update(flags)
        return made

    make.seeds = []
    return make


def runs(*scores: tuple[float, float] | None) -> dict[str, dict[str, Any]]:
    """(loss, BLEU) of the validation part, and on the test part the same plus 1."""
    return {
        str(seed): {
            "metric": "bleu",
            "validation": {"loss": pair[0], "bleu": pair[1], "step": 4},
            "test": {"loss": pair[0] + 1, "bleu": pair[1] + 1},
        }
        if pair
        else {"metric": "bleu", "failed": "the loss is nan"}
        for seed, pair in enumerate(scores, start=1)
    }


def test_mean_and_standard_deviation_by_hand():
    found = summary(runs((3.0, 10.0), (1.0, 12.0), (2.0, 17.0)), "bleu")
    # Mean 13; squares of -3, -1, 4 are 26; divided by 3 - 1 that is 13.
    assert found["summary"]["validation"]["bleu"] == {
        **{"n": 3, "mean": 13.0, "sd": round(math.sqrt(13), 5), "best": 17.0, "worst": 10.0}
    }
    assert found["summary"]["test"]["loss"] == {"n": 3, "mean": 3.0, "sd": 1.0, "best": 2.0, "worst": 4.0}
    assert set(found["summary"]["validation"]) == {"loss", "bleu"}, "numbers that are no scores have no mean"
    assert (
        found["best_seed"] == 3
        and "chosen by bleu on the validation part (17.0), never on the test" in found["chosen_by"]
    )
    assert summary(runs((3.0, 10.0), (1.0, 12.0), (2.0, 17.0)), "loss")["best_seed"] == 2


def test_a_seed_that_failed_counts_in_no_mean_and_is_told():
    given = runs((3.0, 10.0), None, (2.0, 14.0))
    found = {"runs": given, **summary(given, "bleu")}
    bleu = found["summary"]["validation"]["bleu"]
    assert bleu == {"n": 2, "mean": 12.0, "sd": round(math.sqrt(8), 5), "best": 14.0, "worst": 10.0}
    lines = table(found).splitlines()
    assert "Seed 2 failed, and counts in none of these: the loss is nan" in lines
    (line,) = [line for line in lines if line.startswith("validation  BLEU")]
    assert line.split() == ["validation", "BLEU", "12", "±", "2.8", "14", "10", "2"]
    assert summary(runs((1.0, 2.0)), "bleu")["summary"]["test"]["bleu"]["sd"] is None, "one number has no spread"


def test_without_a_validation_part_there_is_no_best():
    given = {seed: {"metric": "bleu", "test": row["test"]} for seed, row in runs((1.0, 2.0), (1.0, 3.0)).items()}
    found = summary(given, "bleu")
    assert found["best_seed"] is None and found["summary"]["test"]["bleu"]["mean"] == 3.5
    assert "no validation part to choose by" in found["chosen_by"]


def test_each_seed_is_the_run_it_would_be_alone(run, prepare, training, tmp_path, capsys):
    found = repeat_with_seeds(prepare, [run(seed=3, seeds=2)])
    assert prepare.seeds == [3, 4] and json.loads((tmp_path / "runs" / "seeds.json").read_text()) == found
    alone = training("alone", seed=4, max_steps=2, save_steps=0, max_tokens=128, learning_rate=3e-3, warmup_steps=4)
    alone.run()
    weights, other, first = (
        load_file(tmp_path / name / "model.safetensors") for name in ("alone", "runs/seed-4", "runs/seed-3")
    )
    assert all(weights[key].equal(other[key]) for key in weights)
    assert not all(weights[key].equal(first[key]) for key in weights)
    losses = [found["runs"][seed]["validation"]["loss"] for seed in ("3", "4")]
    assert losses[1] == alone.folder.metrics()[-1]["loss"]
    assert found["summary"]["validation"]["loss"]["mean"] == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert found["best_seed"] == 3 + losses.index(min(losses))
    assert found["chosen_by"] in capsys.readouterr().out


@pytest.mark.slow  # seven seconds
def test_what_is_complete_is_not_repeated_and_what_is_not_goes_on(run, prepare, tmp_path, monkeypatch):
    whole = repeat_with_seeds(prepare, [run(seeds=3)])
    prepare.seeds.clear()
    folder = tmp_path / "again"
    interrupted = replace(run(seeds=3), output_dir=str(folder))

    def stops(arguments: list[Any]) -> Training:
        made = prepare(arguments)
        if arguments[0].seed == 2:

            def stop() -> None:
                raise KeyboardInterrupt

            monkeypatch.setattr(made, "run", stop)
        return made

    with pytest.raises(KeyboardInterrupt):
        repeat_with_seeds(stops, [interrupted])
    assert list(json.loads((folder / "seeds.json").read_text())["runs"]) == ["1"]
    prepare.seeds.clear()
    again = repeat_with_seeds(prepare, [replace(interrupted, resume=True)])
    assert prepare.seeds == [2, 3] and again["summary"] == whole["summary"]
    # One more seed is added to those.
    prepare.seeds.clear()
    assert (
        repeat_with_seeds(prepare, [replace(interrupted, resume=True, seeds=4)])["summary"]["validation"]["loss"]["n"]
        == 4
    )
    assert prepare.seeds == [4]
    # With more updates they are not complete any more: each goes on from its checkpoint.
    prepare.seeds.clear()
    longer = repeat_with_seeds(prepare, [replace(interrupted, resume=True, seeds=2, max_steps=3)])
    assert prepare.seeds == [1, 2] and longer["runs"]["1"]["validation"]["step"] == 3


def test_one_process_group_serves_all_seeds_and_ends_with_them(run, prepare):
    """A second one could not be made under torchrun: its store remembers where the first one's processes were."""
    distributed: Any = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    seen = []

    def remembers(arguments: list[Any]) -> Training:
        seen.append(torch.distributed.is_initialized())
        return prepare(arguments)

    repeat_with_seeds(remembers, [run()])
    assert seen == [True, True] and not torch.distributed.is_initialized()


def test_a_diverging_seed_does_not_cost_the_others(run, prepare, tmp_path):
    def diverges(arguments: list[Any]) -> Training:
        if arguments[0].seed == 1:
            raise NonFiniteLossError("the loss is nan at update 1")
        return prepare(arguments)

    found = repeat_with_seeds(diverges, [run()])
    assert found["runs"]["1"]["failed"] == "the loss is nan at update 1"
    assert found["summary"]["validation"]["loss"]["n"] == 1 and found["best_seed"] == 2

    def all_diverge(arguments: list[Any]) -> Training:
        raise NonFiniteLossError(f"the loss is nan with {arguments[0].seed}")

    with pytest.raises(ValueError, match="none of the 2 seeds came to its end; the last: the loss is nan with 2"):
        repeat_with_seeds(all_diverge, [replace(run(), output_dir=str(tmp_path / "none"))])


def test_what_is_in_the_folder_is_not_touched(run, prepare, tmp_path):
    with pytest.raises(ValueError, match="holds no seeds to resume; leave out --resume to begin"):
        repeat_with_seeds(prepare, [run(resume=True)])
    (tmp_path / "runs" / "seed-1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds seeds already \(seed-1\); give another folder, or --resume"):
        repeat_with_seeds(prepare, [run()])
    (tmp_path / "runs" / "training.yaml").touch()
    with pytest.raises(ValueError, match="holds a single run already, and seeds=2 makes several"):
        repeat_with_seeds(prepare, [run()])
    assert prepare.seeds == []
    with pytest.raises(ValueError, match="seeds=0 must be at least 1"):
        run(seeds=0)
