"""Several processes are one: the same updates and scores; and where one fails, dies or hangs, all end, and say why.

The quick tests fork this process, which costs milliseconds where `torchrun` costs seconds; they meet through gloo as any
others do. The slow ones are what a user types.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training import accelerator, loop
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.processes import FailedElsewhereError, ProcessLostError
from vanilla_transformer.training.token_batches import TokenBatches
from vanilla_transformer.training.translation import TranslationTask

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
# Of what forked processes do, only this is looked at: with a GPU here, torch forbids autograd behind a fork.
forks = pytest.mark.skipif(torch.accelerator.is_available(), reason="forks, which a GPU's autograd cannot follow")

# With a large epsilon Adam's step is proportional to the gradient, so that rounding stays rounding.
PROPORTIONAL: dict[str, Any] = {"adam_epsilon": 1.0, "learning_rate": 1.0, "warmup_steps": 1, "dropout": 0.0}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Any]]]:
    """`forked(count, function)`: what `function()` returns in each of so many processes of one run; an exception is
    returned like any other result, and None is that of a process that was killed, or `stopped`. Nobody survives the test.
    """
    begun: list[Any] = []

    def run(count: int, function: Callable[[], Any], stopped: int | None = None, limit: float = 60.0) -> list[Any]:
        context = multiprocessing.get_context("fork")
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
        address |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}

        def child(rank: int, answer: Any) -> None:
            os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
            try:
                answer.send(function())
            except BaseException as error:
                traceback.print_exc()
                try:
                    answer.send(error)
                except Exception:  # an exception of torch's that does not travel
                    answer.send(RuntimeError(f"{type(error).__name__}: {error}"))
            answer.close()
            os._exit(0)  # nothing of pytest goes on here

        answers = []
        for rank in range(count):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=child, args=(rank, sending), daemon=True)
            process.start()
            sending.close()
            begun.append(process)
            answers.append(receiving)
        end = time.monotonic() + limit
        found: list[Any] = []
        for rank, answer in enumerate(answers):
            if rank == stopped:
                found.append(None)
                continue
            if not answer.poll(max(0.0, end - time.monotonic())):
                pytest.fail(f"process {rank} of {count} did not end in {limit} seconds")
            try:
                found.append(answer.recv())
            except EOFError:
                found.append(None)
        return found

    yield run
    for process in begun:
        process.kill()
        process.join()


def curve(run: Training) -> list[tuple[float, int, int]]:
    """(loss, target tokens, source tokens) of each update."""
    made = []
    original = run.updates.make

    def make(*arguments: Any) -> Any:
        made.append(original(*arguments))
        return made[-1]

    run.updates.make = make  # type: ignore[method-assign]
    run.run()
    return [(update.loss, update.target_tokens, update.source_tokens) for update in made]


def scores(run: Training) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not name.startswith(("seconds", "sentences_per"))}
        for row in run.folder.metrics()
    ]


# ----------------------------------------------------------------------------------------------------- the same run


@forks
def test_two_processes_have_the_curve_and_the_scores_of_one(training, forked, tmp_path):
    """Six updates of two batches each, of an epoch of five: each second epoch begins in the middle of an update. The
    validation part has 5 rows, so that one process translates 3 and the other 2.

    Losses: 1e-6 relative, float32's rounding, as the sums are taken in another order; scores: the same.
    """
    lengths = training("lengths").task.train.lengths
    five = next(most for most in range(100, 4096) if TokenBatches(lengths, most, 1).batches_in_epoch() == 5)
    flags = {**PROPORTIONAL, "kind": TranslationTask, "max_steps": 6, "eval_steps": 6, "max_tokens": five}
    flags |= {"learning_rate": 0.1, "max_grad_norm": 5.0}

    def five_rows(run: Training) -> Training:
        kept = run.task.validation
        assert kept is not None
        kept.examples.encoded, kept.lengths = kept.examples.encoded.select(range(5)), kept.lengths[:5]
        kept.texts, kept.directions = kept.texts.select(range(5)), [(kept.directions[0][0], 5)]  # type: ignore[attr-defined]
        run.folder.tell = lambda model: None
        return run

    def one_of_two() -> dict[str, Any]:
        run = five_rows(training("two", **flags))
        translated: list[list[str]] = []
        original = Translator.translate

        def translate(self: Translator, texts: list[str], **options: Any) -> Any:
            translated.append(texts)
            return original(self, texts, **options)

        Translator.translate = translate  # type: ignore[method-assign]
        return {"losses": curve(run), "texts": translated}

    alone = five_rows(training("one", accumulation_steps=2, **flags))
    expected = curve(alone)
    both = forked(2, one_of_two)
    for found in both:
        assert [tokens for _, *tokens in found["losses"]] == [tokens for _, *tokens in expected]
        assert [loss for loss, *_ in found["losses"]] == pytest.approx([loss for loss, *_ in expected], rel=1e-6)
    assert expected[-1][0] < expected[0][0]  # it learns, so that the curve is one
    sources = list(alone.task.validation.texts["source"])
    shares = [found["texts"][0] for found in both]
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(shares[0] + shares[1]) == sorted(sources)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 1
    for ours, theirs in zip(rows, scores(alone), strict=True):
        for name in ("bleu", "chrf", "exact", "cut_outputs", "step", "tokens", "epoch", "best", "bleu_signature"):
            assert ours[name] == theirs[name], name
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-5)  # of five decimals
    weights = [load_file(tmp_path / name / "checkpoints" / "step-6" / "model.safetensors") for name in ("one", "two")]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=1e-4, atol=2e-6, msg=key)


# ------------------------------------------------------------------------------------------------- when one fails


def disk_full(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


@forks
@pytest.mark.parametrize(
    "break_it, error",
    [
        (lambda run: setattr(run.folder, "publish", disk_full), "No space left on device"),
        (lambda run: setattr(Path, "rename", disk_full), r"step-2 could not be written \(.*No space left on device\)"),
    ],
    ids=["the best model", "a checkpoint"],
)
def test_what_the_first_process_cannot_write_ends_all(training, forked, break_it, error):
    def begin() -> None:
        run = training("run", max_steps=2)
        if run.accelerator.is_main_process:
            break_it(run)
        run.run()

    first, second = forked(2, begin)
    assert isinstance(first, OSError) and re.search(error, str(first)), first
    assert isinstance(second, OSError) and "process 0 of 2 failed: " in str(second), second
    assert re.search("No space left on device", str(second))


@forks
def test_a_folder_that_is_taken_is_refused_by_all(training, forked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.yaml").write_text("flags: {}\n")
    first, second = forked(2, lambda: training("run"))
    assert isinstance(first, ValueError) and "holds a run or a model already" in str(first)
    assert isinstance(second, FailedElsewhereError) and "process 0 of 2 failed: output_dir " in str(second)
    assert "holds a run or a model already" in str(second)


@forks
def test_a_machine_that_does_not_see_the_folder_ends_all(training, forked, monkeypatch, tmp_path):
    original = loop.RunFolder

    def elsewhere(path: str, *arguments: Any, is_main: bool, **options: Any) -> Any:
        return original(path if is_main else f"{path}-of-another-disk", *arguments, is_main=is_main, **options)

    monkeypatch.setattr(loop, "RunFolder", elsewhere)
    first, second = forked(2, lambda: training("run"))
    assert isinstance(second, ValueError) and "this machine does not see the folder" in str(second)
    assert isinstance(first, FailedElsewhereError) and "process 1 of 2 failed: output_dir " in str(first)


def test_alone_nothing_is_wrapped(training):
    run = training()
    with pytest.raises(ZeroDivisionError), run.processes.together():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"), run.processes.watched():
        raise RuntimeError("Connection closed by peer")


# ------------------------------------------------------------------------------------------ when one dies or hangs


def send_itself(number: signal.Signals, before: int) -> Callable[[], None]:
    """Patches the loop: process 1 of 3 sends itself this signal when it is about to make this update."""
    original = Training._update

    def update(run: Training, *arguments: Any) -> None:
        if run.progress.update + 1 == before and run.accelerator.process_index == 1:
            os.kill(os.getpid(), number)
        original(run, *arguments)

    return lambda: setattr(Training, "_update", update)


@forks
def test_a_killed_process_ends_the_others_and_is_named(training, forked):
    """Process 1 of 3. Its neighbours are told by the backend that it is gone, and process 2 perhaps that process 0 is, which
    ended for the same reason: all that are gone are named.
    """

    def begin() -> Any:
        send_itself(signal.SIGKILL, 4)()
        training("run", max_steps=8, save_steps=2).run()

    start = time.monotonic()
    first, killed, third = forked(3, begin)
    assert time.monotonic() - start < 30
    assert killed is None
    for survivor in (first, third):
        assert isinstance(survivor, ProcessLostError), survivor
        assert re.match(r"process(es)? (0, |)1(, 2)? of 3 (is|are) gone", str(survivor)), survivor
        assert " at update 4; the last checkpoint is step-2: start again with --resume (" in str(survivor)
        assert "\n" not in str(survivor)


@forks
@pytest.mark.slow
def test_a_process_that_hangs_is_waited_for_no_longer_than_the_limit(training, forked, monkeypatch):
    monkeypatch.setattr(accelerator, "time_limit", lambda run: timedelta(seconds=2))

    def begin() -> Any:
        send_itself(signal.SIGSTOP, 2)()
        training("run", max_steps=8).run()

    start = time.monotonic()
    first, _ = forked(2, begin, stopped=1)
    assert 2 < time.monotonic() - start < 30
    assert isinstance(first, ProcessLostError)
    assert str(first).startswith("process 1 of 2 does not answer: stopped (SIGSTOP) at update 2; there is no checkpoint yet (")


# --------------------------------------------------------------------------------------------------------- in shards


def pretend_gpus() -> None:
    """Accelerate shards only over GPUs, torch over processors too: this makes Accelerate go the way that it goes with GPUs."""
    original = PartialState.__init__

    def begin(state: PartialState, *arguments: Any, **options: Any) -> None:
        original(state, *arguments, **options)
        if state._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            state._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = begin  # type: ignore[method-assign]


SHARDS = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
SHARDS |= {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}  # what `accelerate launch --use_fsdp` sets


@forks
@pytest.mark.slow
@pytest.mark.parametrize(
    "precision, share, tolerance", [("fp32", "all", 1e-6), ("fp32", "none", 1e-6), ("bf16", "all", 2e-3)]
)
def test_in_shards_it_is_the_same_run_and_resumes_with_and_without_them(
    training, forked, saved_state, tmp_path, precision, share, tolerance
):
    """`tolerance` of the losses, relative: float32's rounding, or bfloat16's of the products."""
    flags: dict[str, Any] = {"precision": precision, "share_embeddings": share}
    flags |= {**PROPORTIONAL, "max_steps": 6, "save_steps": 3, "eval_steps": 3, "learning_rate": 0.1, "max_grad_norm": 5.0}
    expected = curve(training("whole", accumulation_steps=4, **flags))

    def in_shards(folder: str, is_sharded: bool = True, **changes: Any) -> Any:
        def begin() -> Any:
            if is_sharded:
                os.environ.update(SHARDS)
                pretend_gpus()
            run = training(folder, accumulation_steps=2, **{**flags, **changes})
            parts = {type(parameter).__name__ for parameter in run.model.parameters()}
            return parts, curve(run)

        return begin

    for parts, losses in forked(2, in_shards("sharded")):
        assert parts == {"DTensor"}
        assert [tokens for _, *tokens in losses] == [tokens for _, *tokens in expected]
        assert [loss for loss, *_ in losses] == pytest.approx([loss for loss, *_ in expected], rel=tolerance)
    saved = {name: tmp_path / name / "checkpoints" for name in ("whole", "sharded")}
    for file in ("model", "optimizer") if precision == "fp32" else ():
        ours, theirs = (load_file(folder / "step-6" / f"{file}.safetensors") for folder in saved.values())
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=2e-6, msg=key)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "sharded")
    assert type(loaded).__name__ == "VanillaTransformerForConditionalGeneration"
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in saved]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=tolerance, abs=2e-5)

    for name, is_sharded in (("in-shards", True), ("copied", False)):
        shutil.copytree(tmp_path / "sharded", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "step-6")
        for _, losses in forked(2, in_shards(name, is_sharded, resume=True)):
            assert [loss for loss, *_ in losses] == pytest.approx([loss for loss, *_ in expected[3:]], rel=tolerance)
    ours, theirs = (saved_state(tmp_path / name / "checkpoints" / "step-6") for name in ("in-shards", "sharded"))
    assert [key for key in ours if ours[key] != theirs[key]] == []


def test_shards_where_there_would_be_none_are_refused(training, monkeypatch):
    for name, value in SHARDS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="use_fsdp: Accelerate shards a model only over several processes with a GPU each"):
        training()


# ------------------------------------------------------------------------------------------------ as a user types it

LAUNCH = (sys.executable, "-m", "torch.distributed.run")
FINETUNE = ("-m", "vanilla_transformer.scripts.finetune")
# Each update of the killed run is waited for: it must be reached, whatever the machine.
KILL = """
import os, signal, sys
from vanilla_transformer.scripts import finetune
from vanilla_transformer.training.loop import Training

original = Training._update
def update(run, *arguments):
    if run.progress.update == 4 and run.accelerator.process_index == 1 and not run.flags.resume:
        os.kill(os.getpid(), signal.SIGKILL)
    original(run, *arguments)
Training._update = update
sys.exit(finetune.main())
"""


@pytest.fixture
def line(toy: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`line("folder", "--flag", "value")`: flags of `finetune` for a run of six updates into that folder."""

    def make(folder: str, *flags: str) -> list[str]:
        given = {"task": "translation", "tokenizer": toy / "tokenizer", "train-file": toy / "train.jsonl"}
        given |= {"validation-file": toy / "validation.jsonl", "source-lang": "en", "target-lang": "de", "d-model": 16}
        given |= {"encoder-layers": 1, "decoder-layers": 1, "num-attention-heads": 2, "d-ff": 32, "max-tokens": 128}
        given |= {"max-steps": 6, "eval-steps": 3, "save-steps": 2, "best-metric": "loss", "dropout": 0, "warmup-steps": 4}
        given |= {"learning-rate": 0.1, "adam-epsilon": 1, "output-dir": tmp_path / folder}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))] + list(flags)

    return make


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_process_under_the_launcher(line, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILL)
    launch = [*LAUNCH, "--standalone", "--nproc-per-node", "2", str(script), *line("run")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=800)
    assert done.returncode == 1
    assert re.search(
        r"^vanilla-transformer finetune: error: process 1 of 2 is gone .* at update 5; the last checkpoint is step-4: "
        r"start again with --resume \(.*\)$", done.stderr, re.MULTILINE,
    ), done.stderr  # fmt: skip
    assert "rank      : 1 (local_rank: 1)\n  exitcode  : -9" in done.stderr  # the launcher's own report
    assert "[rank0]: Traceback" not in done.stderr
    done = subprocess.run([*launch, "--resume"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "step-6").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_machines_are_one(line, tmp_path):
    """Two launchers that meet at an address, each with one process, beside one launcher with two."""
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    rendezvous += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    machines = [
        subprocess.Popen([*LAUNCH, *rendezvous, *FINETUNE, *line("machines")], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for machine in machines:
        _, error = machine.communicate(timeout=800)
        assert machine.returncode == 0, error[-3000:]
    one = [*LAUNCH, "--standalone", "--nproc-per-node", "2", *FINETUNE, *line("one")]
    done = subprocess.run(one, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (tmp_path / name / "checkpoints" / "step-6" for name in ("machines", "one"))
    for name in ("model", "optimizer", "random_state_0", "random_state_1"):
        tensors = load_file(theirs / f"{name}.safetensors")
        assert all(torch.equal(load_file(ours / f"{name}.safetensors")[key], tensor) for key, tensor in tensors.items()), name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_accelerate_launch_is_torchrun(line, tmp_path, monkeypatch):
    """Two processes by `accelerate launch`, on one machine and on two that meet at an address, beside torchrun's."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    accelerate += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    meeting = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()), "--num_machines", "2"]
    started = [
        [*accelerate, *meeting, "--machine_rank", rank, *FINETUNE, *line("machines")] for rank in ("0", "1")
    ]
    machines = [subprocess.Popen(one, stderr=subprocess.PIPE, text=True) for one in started]
    for machine in machines:
        _, error = machine.communicate(timeout=800)
        assert machine.returncode == 0, error[-3000:]
    for launcher, folder in (
        ([*accelerate, "--num_machines", "1"], "accelerate"),
        ([*LAUNCH, "--standalone", "--nproc-per-node", "2"], "torchrun"),
    ):
        done = subprocess.run([*launcher, *FINETUNE, *line(folder)], capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "2 x 128 tokens" in done.stderr + done.stdout
    weights = [
        load_file(tmp_path / folder / "checkpoints" / "step-6" / "model.safetensors")
        for folder in ("torchrun", "accelerate", "machines")
    ]
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in weights[0].items())
