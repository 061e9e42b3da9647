"""The one training loop, for pretraining and for every task.

    batches --> model --> loss, summed --> gradient of the mean over ALL target tokens of the update --> Adam --> ...

An update adds up the gradients of `accumulation_steps` batches on each of W processes. Each batch's summed loss is
divided by the target tokens of all of them together, so that 1 x 16, 4 x 4 and 2 processes x 8 give one gradient;
dividing each batch by its own tokens, and then averaging, would weight short batches more.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vanilla_transformer.training.adapters import add_adapters, without_adapters
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
from vanilla_transformer.training.evaluation import as_saved, counted_labels
from vanilla_transformer.training.fingerprint import fingerprint_of
from vanilla_transformer.training.run_folder import RunFolder
from vanilla_transformer.training.schedules import learning_rate
from vanilla_transformer.training.stop_signals import StopSignals
from vanilla_transformer.training.task import Task
from vanilla_transformer.training.token_batches import TokenBatches
from vanilla_transformer.training.transfer import Transfer


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the weights were not touched by it."""


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
        add_adapters(model, flags, run.seed)
        self.transfer = Transfer(model, flags)
        with accelerator.main_process_first():
            self.folder = RunFolder(
                run.output_dir,
                arguments,
                is_main=accelerator.is_main_process,
                resume=run.resume,
                override=run.override,
            )
        if not self.folder.path.is_dir():
            raise ValueError(
                f"output_dir {run.output_dir}: this machine does not see the folder that the first one made; "
                f"name a folder on a disk that all machines share"
            )
        if run.gradient_checkpointing:
            # transformers 5.23 renamed it, and warns about the old name.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        kind = torch.optim.AdamW if run.weight_decay else torch.optim.Adam
        optimizer = kind(
            self.transfer.parameter_groups(),
            lr=0.0,  # the schedule sets it before every update
            betas=(run.adam_beta1, run.adam_beta2),
            eps=run.adam_epsilon,
            weight_decay=run.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.plain: PreTrainedModel = accelerator.unwrap_model(self.model)
        # The weights were drawn alike on all processes; from here on each drops other units than its neighbours.
        torch.manual_seed(run.seed + accelerator.process_index)
        corpus = fingerprint_of(task.train.examples.encoded)
        self.progress = Progress(processes=accelerator.num_processes, corpus=corpus)

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> Progress:
        """Train until `max_steps`, until `patience` is at its end, or until interrupted (then KeyboardInterrupt).

        Raises:
            ValueError: another process trains into the run's folder; or no checkpoint to resume from is intact.
            NonFiniteLossError: see there.
        """
        with self.folder.held():
            return self._run()

    def _run(self) -> Progress:
        run, accelerator = self.flags, self.accelerator
        accelerator.init_trackers("vanilla-transformer", config={k: str(v) for k, v in vars(run).items()})
        if run.resume:
            self._resume()
        self.batches = TokenBatches(
            self.task.train.lengths,
            run.max_tokens,
            run.seed,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            start=self.progress.batches,
        )
        self._announce()
        loader = self._micro_batches()
        bar = tqdm(
            total=run.max_steps,
            initial=self.progress.update,
            unit="update",
            disable=not accelerator.is_main_process or not sys.stderr.isatty(),
        )
        window = _Window()
        self.last_saved = self.progress.update if run.resume else -1
        with StopSignals() as signals:
            while self.progress.update < run.max_steps and not self._out_of_patience():
                self._update(loader, window)
                update = self.progress.update
                bar.update()
                if update % run.log_steps == 0 or update == run.max_steps:
                    self._log(window, bar)
                if update % run.eval_steps == 0:
                    self._evaluate()
                if run.save_steps and update % run.save_steps == 0:
                    self._save()
                self._stop_if_asked(signals)
            bar.close()
            if self._out_of_patience():
                self._print(f"No better model in {run.patience} evaluations: stopped at update {self.progress.update}.")
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

    def _update(self, loader: Iterator[dict[str, torch.Tensor]], window: _Window) -> None:
        """One update of the weights."""
        start = time.perf_counter()
        run, accelerator, device = self.flags, self.accelerator, self.accelerator.device
        micro_batches = [next(loader) for _ in range(run.accumulation_steps)]
        rows: list[Any] = [batch.pop("rows") for batch in micro_batches]
        target_tokens = sum(counted_labels(batch["labels"]) for batch in micro_batches)
        source_tokens = sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        counted: Any = accelerator.reduce(torch.tensor([target_tokens, source_tokens], device=device), "sum")
        counts = counted.tolist()

        update = self.progress.update + 1
        self._set_learning_rate(update)
        self.model.train()
        self.transfer.rest(update)
        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            is_last = number == len(micro_batches)
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                # W processes average their gradients; dividing by tokens / W makes that the sum over all tokens.
                loss = self.model(**batch, num_items_in_batch=counts[0] / accelerator.num_processes).loss
                accelerator.backward(loss)
            losses.append(loss.detach())
        mean: Any = accelerator.reduce(torch.stack(losses).sum(), "mean")
        mean_loss = mean.item()
        if not math.isfinite(mean_loss):
            guilty = [batch for batch, loss in zip(rows, losses, strict=True) if not loss.isfinite()]
            self._refuse_non_finite(f"the loss is {mean_loss}", update, guilty)
        self.transfer.drop_gradients(update)
        norm = self._clip_gradients()
        if accelerator.scaler is None and not math.isfinite(norm):  # fp16's scaler skips such an update itself
            self._refuse_non_finite(f"the norm of the gradient is {norm}", update, rows)
        self.optimizer.step()
        self.optimizer.zero_grad()

        self.progress.update = update
        self.progress.batches += len(micro_batches)
        self.progress.tokens += counts[0] + counts[1]
        seconds = time.perf_counter() - start
        self.progress.seconds += seconds
        self.progress.loss_sum += mean_loss * counts[0]
        self.progress.loss_tokens += counts[0]
        window.add(mean_loss, counts[0], counts[0] + counts[1], seconds)

    def _set_learning_rate(self, update: int) -> None:
        run = self.flags
        rate = learning_rate(
            update,
            d_model=self.plain.config.d_model,
            warmup_steps=run.warmup_steps,
            noam_factor=run.noam_factor,
            peak=run.learning_rate,
            schedule=run.schedule,
            max_steps=run.max_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient, before it was clipped."""
        parameters = list(self.model.parameters())
        if self.flags.max_grad_norm:
            norm: Any = self.accelerator.clip_grad_norm_(parameters, self.flags.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm.item()

    def _micro_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        train = self.task.train

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            return {**self.task.collator(examples), "rows": [train.row(example["index"]) for example in examples]}

        # A generator of its own: the loader draws a number from it, and dropout must not notice.
        loader = DataLoader(
            train.examples,
            batch_sampler=self.batches,
            collate_fn=collate,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),
        )
        return iter(loader)

    def _refuse_non_finite(self, what: str, update: int, batches: list[list[int]]) -> NoReturn:
        """Names the rows of the batches that are to blame, of whichever process."""
        found = gather_object([row for batch in batches for row in batch])
        shown = ", ".join(map(str, found[:50])) + (f", ... ({len(found)} in all)" if len(found) > 50 else "")
        raise NonFiniteLossError(
            f"{what} at update {update}, before the weights were changed by it; it came from "
            f"train rows {shown}. Checkpoints stand as they were: look at these rows, lower the learning rate, "
            f"or raise warmup_steps"
        )

    # -------------------------------------------------------------------------------------- judging and keeping

    def _evaluate(self, **extra: Any) -> None:
        """Score the model on the validation part, log it, and keep it in the run's folder if it is the best so far."""
        progress, task = self.progress, self.task
        row: dict[str, Any] = {
            "step": progress.update,
            "split": "validation",
            "epoch": round(progress.batches * progress.processes / self.batches.batches_in_epoch(), 3),
            "seconds": round(progress.seconds, 2),
            "tokens": progress.tokens,
            "train_loss": round(progress.loss_sum / progress.loss_tokens, 5) if progress.loss_tokens else None,
            **extra,
        }
        progress.loss_sum, progress.loss_tokens, progress.evaluated = 0.0, 0, progress.update
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
        self._print(f"update {progress.update}: {self._told(row)}{' (best so far)' if is_best else ''}")
        if self.accelerator.is_main_process:
            self.folder.log_metrics(row)
            if is_best:
                self.folder.publish(without_adapters(self.plain), self.tokenizer)
            self.folder.tell(self.plain)
        self.accelerator.log(
            {f"validation/{k}": v for k, v in row.items() if isinstance(v, (int, float))}, step=progress.update
        )
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        save_checkpoint(
            self.folder.checkpoints,
            self.accelerator,
            self.model,
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
            self._print(f"{fault}. The one before it is taken instead.")
        before = load_checkpoint(checkpoint, self.accelerator, self.model, self.optimizer.optimizer)
        if before.processes != self.accelerator.num_processes:
            self._print(
                f"Resuming with {self.accelerator.num_processes} processes instead of {before.processes}: an update now has "
                f"{self.accelerator.num_processes * self.flags.accumulation_steps} batches."
            )
            before.batches = before.batches * before.processes // self.accelerator.num_processes
            before.processes = self.accelerator.num_processes
        if before.corpus and before.corpus != self.progress.corpus:
            changed = "the training rows are not those that the run began with (files, vocabulary or limits have changed)"
            if not self.flags.override:
                raise ValueError(f"--resume: {changed}; give the same, or --override to accept")
            self._print(f"Resuming, but {changed}.")
        before.corpus = self.progress.corpus
        self.progress = before
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
            self._print(f"test: {self._told(row)}")
            if self.accelerator.is_main_process:
                self.folder.log_metrics(row)
                self.folder.tell(best)
        # The wrapped model goes before the process group does: if it held the group's last reference, Gloo's destructor would
        # wait for a thread that waits for Python (seen with two processes, now and then, torch 2.13).
        self.accelerator.wait_for_everyone()
        self.model = self.plain
        self.accelerator.free_memory()
        self.accelerator.end_training()

    # --------------------------------------------------------------------------------------------------- telling

    def _announce(self) -> None:
        run, progress, config = self.flags, self.progress, self.plain.config
        parameters = sum(p.numel() for p in self.plain.parameters())
        self._print(
            f"Model: {parameters:,} parameters; deviations from the paper: {config.deviations_from_paper() or 'none'}"
        )
        if (said := str(self.transfer)) and self.transfer.is_partial:
            self._print(f"Transfer: {said}")
        for name in ("train", "validation", "test"):
            corpus = getattr(self.task, name)
            if corpus is not None:
                self._print(f"Data, {name}: {corpus.dropped}")
        per_update = run.accumulation_steps * self.accelerator.num_processes
        self._print(
            f"An epoch: {self.batches.batches_in_epoch() / per_update:.1f} updates of {per_update} x {run.max_tokens:,} tokens, "
            f"{100 * self.batches.padding_share():.1f} % padding. {progress.update:,} of {run.max_steps:,} updates done."
        )

    def _told(self, row: dict[str, Any]) -> str:
        return ", ".join(f"{name} {row[name]}" for name in self.task.told if name in row)

    def _log(self, window: _Window, bar: tqdm) -> None:
        loss, speed, seconds_per_update = window.take()
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        remaining = (self.flags.max_steps - self.progress.update) * seconds_per_update
        line = {
            "loss": f"{loss:.4f}",
            "lr": f"{rate:.2e}",
            "tokens/s": f"{speed:,.0f}",
            "padding": f"{100 * self.batches.padding_share():.1f} %",
        }
        bar.set_postfix(line)
        if bar.disable:
            shown = ", ".join(f"{name} {value}" for name, value in line.items())
            done = f"update {self.progress.update}/{self.flags.max_steps}"
            self._print(f"{done}: {shown}, {remaining / 60:.1f} min left")
        self.accelerator.log(
            {"train/loss": loss, "train/learning_rate": rate, "train/tokens_per_second": speed},
            step=self.progress.update,
        )

    def _print(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line)
            sys.stdout.flush()


class _Window:
    """Means since the last line of the log."""

    def __init__(self):
        self.loss = self.target_tokens = self.tokens = self.seconds = self.updates = 0.0

    def add(self, loss: float, target_tokens: int, tokens: int, seconds: float) -> None:
        self.loss += loss * target_tokens
        self.target_tokens += target_tokens
        self.tokens += tokens
        self.seconds += seconds
        self.updates += 1

    def take(self) -> tuple[float, float, float]:
        """(loss per target token, source + target tokens per second, seconds per update), then begin anew."""
        result = (self.loss / self.target_tokens, self.tokens / self.seconds, self.seconds / self.updates)
        self.loss = self.target_tokens = self.tokens = self.seconds = self.updates = 0.0
        return result
