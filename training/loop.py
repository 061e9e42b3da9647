"""The one training loop, for pretraining and for every task.

    batches --> updates of the weights (updates.py) --> evaluations --> the best model, in the run's folder
                                                    --> checkpoints, from which a run goes on
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vanilla_transformer.training.adapters import without_adapters
from vanilla_transformer.training.arguments import RunArguments, TransferArguments
from vanilla_transformer.training.checkpoints import (
    Progress,
    average_weights,
    complete_checkpoints,
    intact_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from vanilla_transformer.training.evaluation import as_saved
from vanilla_transformer.training.feed import Feed
from vanilla_transformer.training.optimizer import ready_to_learn
from vanilla_transformer.training.processes import Processes
from vanilla_transformer.training.resuming import continued
from vanilla_transformer.training.run_folder import RunFolder
from vanilla_transformer.training.run_log import RunLog
from vanilla_transformer.training.sharding import (
    gather_weights,
    is_sharded,
    prepare,
    refuse_partial_learning_in_shards,
)
from vanilla_transformer.training.stop_signals import StopSignals
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.updates import Batch, Updates


class Training:
    """A run: `Training(...).run()`.

    Args:
        accelerator: from Accelerate; knows devices, processes and precision.
        model: what is trained, with weights.
        tokenizer: saved beside the model.
        task: the corpora, and how outputs are scored.
        run: the flags.
        arguments: all dataclasses of flags, for training.yaml; TransferArguments among them say which weights learn.

    Raises:
        ValueError: `best_metric` is nothing that the task measures; or as `RunFolder` and `Transfer`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        run: RunArguments,
        arguments: list[Any],
    ):
        self.accelerator, self.tokenizer, self.task, self.flags = accelerator, tokenizer, task, run
        self.metric = run.best_metric if run.best_metric != "auto" else task.best_metric
        if self.metric not in task.metrics:
            raise ValueError(f"best_metric={self.metric} is nothing that this task measures; choose {' or '.join(task.metrics)}")
        # Before there is a folder: what is refused here leaves none behind for the corrected flags to find.
        flags = next((part for part in arguments if isinstance(part, TransferArguments)), TransferArguments())
        self.transfer, optimizer = ready_to_learn(model, flags, run)
        refuse_partial_learning_in_shards(accelerator, self.transfer)
        self.processes = Processes(accelerator)
        with self.processes.together():
            self.folder = RunFolder(
                run.output_dir,
                arguments,
                is_main=accelerator.is_main_process,
                resume=run.resume,
                override=run.override,
            )
        with self.processes.together():
            if not self.folder.path.is_dir():
                raise ValueError(
                    f"output_dir {run.output_dir}: this machine does not see the folder that the first one made; "
                    f"name a folder on a disk that all machines share"
                )
        self.model, self.plain, self.optimizer = prepare(accelerator, model, optimizer)
        self.log = RunLog(accelerator, run)
        self.updates = Updates(accelerator, self.model, self.plain, self.optimizer, self.transfer, run, self.log.print)
        # The weights were drawn alike on all processes; from here on each drops other units than its neighbours.
        torch.manual_seed(run.seed + accelerator.process_index)
        self.progress = Progress(
            processes=accelerator.num_processes,
            batches_per_update=accelerator.num_processes * run.accumulation_steps,
            accumulation_steps=run.accumulation_steps,
            corpus=task.train.fingerprint(),
        )

    @property
    def accumulation_steps(self) -> int:
        """Batches of each process in an update: others than the flag says where a run is resumed with other processes."""
        return self.progress.batches_per_update // self.progress.processes

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> Progress:
        """Train until `max_steps`, until `patience` is at its end, or until interrupted (then KeyboardInterrupt).

        Raises:
            ValueError: another process trains into the run's folder; or no checkpoint to resume from is intact.
            NonFiniteLossError: see there.
            OSError: something could not be written; or another process failed, died, or did not answer.
        """
        with contextlib.ExitStack() as until_the_end:
            with self.processes.together():
                until_the_end.enter_context(self.folder.held())
            with self.processes.watched(self._way_out):
                return self._run()

    def _way_out(self) -> str:
        newest = self.folder.newest_checkpoint()
        kept = f"the last checkpoint is {newest.name}: start again with --resume" if newest else "there is no checkpoint yet"
        return f" at update {self.progress.update + 1}; {kept}"

    def _run(self) -> Progress:
        run, accelerator = self.flags, self.accelerator
        with self.processes.together():
            accelerator.init_trackers("vanilla-transformer", config={k: str(v) for k, v in vars(run).items()})
        if run.resume:
            self._resume()
        self.batches = self.task.train.batches(
            run.max_tokens,
            run.seed,
            known=self.progress.stream or None,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            start=self.progress.batches,
        )
        self._announce()
        self.log.begin(self.progress.update, self.batches.padding_share())
        self.last_saved = self.progress.update if run.resume else -1
        with StopSignals() as signals, contextlib.closing(self._feed()) as loader:
            while self.progress.update < run.max_steps and not self._out_of_patience():
                self._update(loader)
                update = self.progress.update
                if update % run.eval_steps == 0:
                    self._evaluate()
                if run.save_steps and update % run.save_steps == 0:
                    self._save()
                self._stop_if_asked(signals)
            self.log.end()
            if self._out_of_patience():
                self.log.print(f"No better model in {run.patience} evaluations: stopped at update {self.progress.update}.")
            if self.progress.evaluated != self.progress.update:
                self._evaluate()
            if self.last_saved != self.progress.update:
                self._save()
            self._stop_if_asked(signals)
        self._finish()
        return self.progress

    def _out_of_patience(self) -> bool:
        return 0 < self.flags.patience <= self.progress.evaluations_without_best

    def _stop_if_asked(self, signals: StopSignals) -> None:
        """KeyboardInterrupt on every process, once the checkpoint is written, if any of them received a signal."""
        received = torch.tensor(int(signals.received is not None), device=self.accelerator.device)
        asked: Any = self.accelerator.reduce(received, "sum")
        if asked.item():
            update = self.progress.update
            if self.last_saved != update:
                self._save()
            raise KeyboardInterrupt(f"update {update} is saved; continue with the same flags and --resume")

    def _update(self, loader: Iterator[Batch]) -> None:
        start = time.perf_counter()
        progress = self.progress
        micro_batches = [next(loader) for _ in range(self.accumulation_steps)]
        made = self.updates.make(progress.update + 1, micro_batches)
        seconds = time.perf_counter() - start
        progress.update += 1
        progress.batches += len(micro_batches)
        progress.tokens += made.tokens
        progress.seconds += seconds
        progress.loss_sum += made.loss * made.target_tokens
        progress.loss_tokens += made.target_tokens
        self.log.add(made, seconds)

    def _feed(self) -> Feed:
        pin = self.accelerator.device.type == "cuda"
        return Feed(self.task.train, self.batches, self.task.collator, self.progress, pin, self.log.print)

    # -------------------------------------------------------------------------------------- judging and keeping

    def _evaluate(self, **extra: Any) -> None:
        """Score the model on the validation part, log it, and keep it in the run's folder if it is the best so far."""
        progress, task = self.progress, self.task
        epochs = self.batches.epochs(progress.batches * progress.processes)
        row: dict[str, Any] = {
            "step": progress.update,
            "split": "validation",
            "epoch": None if epochs is None else round(epochs, 3),
            "seconds": round(progress.seconds, 2),
            "tokens": progress.tokens,
            "train_loss": round(progress.loss_sum / progress.loss_tokens, 5) if progress.loss_tokens else None,
            **extra,
        }
        progress.loss_sum, progress.loss_tokens, progress.evaluated = 0.0, 0, progress.update
        if is_sharded(self.model) and "averaged" not in extra:
            gather_weights(self.model, self.plain)
        is_best = True
        if task.validation is not None:
            with as_saved(self.plain):
                row |= task.evaluate(self.accelerator, self.plain, task.validation, self.flags.eval_num_beams)
            score = -row["loss"] if self.metric == "loss" else row[self.metric]
            # Equal scores are common where BLEU is: it is 0 for a weak model, and for all texts of under four words.
            better = (score, -row["loss"]) > (progress.best_score or 0.0, -progress.best_loss)
            is_best = progress.best_score is None or better
            if is_best:
                progress.best_score, progress.best_loss, progress.best_update = score, row["loss"], progress.update
                progress.evaluations_without_best = 0
            elif "averaged" not in extra:  # which is no step of the training that patience watches
                progress.evaluations_without_best += 1
        row["best"] = is_best
        self.log.print(f"update {progress.update}: {self._told(row)}{' (best so far)' if is_best else ''}")
        with self.processes.together():
            if self.accelerator.is_main_process:
                self.folder.log_metrics(row)
                if is_best:
                    self.folder.publish(without_adapters(self.plain), self.tokenizer)
                self.folder.tell(self.plain)
            self.log.track("validation", row)

    def _save(self) -> None:
        save_checkpoint(
            self.folder.checkpoints,
            self.processes,
            self.model,
            self.plain,
            self.tokenizer,
            self.optimizer.optimizer,
            self.progress,
            self.flags.keep_checkpoints,
        )
        self.last_saved = self.progress.update

    def _resume(self) -> None:
        # Every process looks for itself, and finds the same: none has to wait for another that may fail.
        checkpoint, faults = intact_checkpoint(self.folder.checkpoints)
        for fault in faults:
            self.log.print(f"{fault}. The one before it is taken instead.")
        before = load_checkpoint(checkpoint, self.accelerator, self.model, self.plain, self.optimizer.optimizer)
        self.progress = continued(before, self.progress, self.flags, self.log.print)
        with self.processes.together():
            if self.accelerator.is_main_process:
                self.folder.forget_metrics_after(before.update)

    def _finish(self) -> None:
        """Average the last checkpoints if asked to, keep the best of all, score it on the test part."""
        run, progress, task = self.flags, self.progress, self.task
        folders = complete_checkpoints(self.folder.checkpoints)[-run.average_last :] if run.average_last else []
        names = [folder.name for folder in folders]
        if names and names != progress.averaged:  # a run that is over can be resumed
            own = {name: parameter.detach().clone() for name, parameter in self.plain.state_dict().items()}
            self.plain.load_state_dict(average_weights(folders), strict=False)
            self._evaluate(averaged=names)
            self.plain.load_state_dict(own)
            progress.averaged = names
            self._save()  # again: if the average was the best so far, a longer run has to beat it
        if task.test is not None:
            best = without_adapters(self.plain)
            load_weights(best, self.folder.path)
            with as_saved(best):
                row = {"step": progress.best_update or progress.update, "split": "test"}
                row |= task.evaluate(self.accelerator, best, task.test, run.test_num_beams)
            self.log.print(f"test: {self._told(row)}")
            with self.processes.together():
                if self.accelerator.is_main_process:
                    self.folder.log_metrics(row)
                    self.folder.tell(best)
        # The wrapped model goes before the process group does: if it held the group's last reference, Gloo's destructor would
        # wait for a thread that waits for Python (seen with two processes, now and then, torch 2.13).
        self.accelerator.wait_for_everyone()
        self.model = self.plain
        del self.updates
        self.accelerator.free_memory()
        self.accelerator.end_training()

    # --------------------------------------------------------------------------------------------------- telling

    def _announce(self) -> None:
        run, progress, config = self.flags, self.progress, self.plain.config
        parameters = sum(p.numel() for p in self.plain.parameters())
        self.log.print(
            f"Model: {parameters:,} parameters; deviations from the paper: {config.deviations_from_paper() or 'none'}"
        )
        if (said := str(self.transfer)) and self.transfer.is_partial:
            self.log.print(f"Transfer: {said}")
        for name in ("train", "validation", "test"):
            corpus = getattr(self.task, name)
            if corpus is not None:
                self.log.print(f"Data, {name}: {corpus.dropped}")
        per_update = self.accumulation_steps * self.accelerator.num_processes
        batches, what = self.batches.announced()
        self.log.print(
            f"{what}: {batches / per_update:.1f} updates of {per_update} x {run.max_tokens:,} tokens, "
            f"{100 * self.batches.padding_share():.1f} % padding. {progress.update:,} of {run.max_steps:,} updates done."
        )

    def _told(self, row: dict[str, Any]) -> str:
        return ", ".join(f"{name} {row[name]}" for name in self.task.told if name in row)
