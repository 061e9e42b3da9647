"""What a run tells while it goes on: lines or a bar on the terminal, and the trackers."""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.updates import Update


class RunLog:
    """Told by the main process alone; every process may call it."""

    def __init__(self, accelerator: Accelerator, run: RunArguments):
        self.accelerator, self.flags = accelerator, run
        self.update, self.padding = 0, 0.0
        self._begin_window()

    def begin(self, done: int, padding: float) -> None:
        """Before the first update.

        Args:
            done: updates that are done already.
            padding: the share of padding in the batches.
        """
        self.update, self.padding = done, padding
        self.bar = tqdm(
            total=self.flags.max_steps,
            initial=done,
            unit="update",
            disable=not self.accelerator.is_main_process or not sys.stderr.isatty(),
        )

    def add(self, made: Update, seconds: float) -> None:
        """One more update is done. Every `log_steps` of them, and with the last, their means are told."""
        self.update += 1
        self.updates += 1
        self.loss += made.loss * made.target_tokens
        self.target_tokens += made.target_tokens
        self.tokens += made.tokens
        self.seconds += seconds
        self.bar.update()
        if self.update % self.flags.log_steps == 0 or self.update == self.flags.max_steps:
            self._tell_window(made.learning_rate)
            self._begin_window()

    def end(self) -> None:
        """After the last update."""
        self.bar.close()

    def print(self, line: str) -> None:
        """A line on the terminal, above the bar if there is one."""
        if self.accelerator.is_main_process:
            tqdm.write(line)
            sys.stdout.flush()

    def track(self, kind: str, values: dict[str, Any]) -> None:
        """Numbers for the trackers, under `kind/name`; what is no number is left out."""
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=self.update)

    def _begin_window(self) -> None:
        self.loss = self.target_tokens = self.tokens = self.seconds = self.updates = 0.0

    def _tell_window(self, learning_rate: float) -> None:
        loss, speed = self.loss / self.target_tokens, self.tokens / self.seconds
        remaining = (self.flags.max_steps - self.update) * self.seconds / self.updates
        line = {
            "loss": f"{loss:.4f}",
            "lr": f"{learning_rate:.2e}",
            "tokens/s": f"{speed:,.0f}",
            "padding": f"{100 * self.padding:.1f} %",
        }
        self.bar.set_postfix(line)
        if self.bar.disable:
            shown = ", ".join(f"{name} {value}" for name, value in line.items())
            self.print(f"update {self.update}/{self.flags.max_steps}: {shown}, {remaining / 60:.1f} min left")
        self.track("train", {"loss": loss, "learning_rate": learning_rate, "tokens_per_second": speed})
