"""What became of lines that were translated, for the last word on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from vanilla_transformer.deployment.translated_lines import TranslatedLine
from vanilla_transformer.modeling import Translation


class LineCounts:
    """Add each line, then say the `summary`."""

    def __init__(self) -> None:
        self.lines = self.cut = self.split = 0
        self.start = time.monotonic()

    def add(self, translation: Translation) -> None:
        self.lines += 1
        self.cut += translation.cut
        self.split += translation.pieces > 1

    def add_line(self, line: TranslatedLine) -> None:
        self.lines += 1
        self.cut += line.candidates[0].cut
        self.split += line.too_long

    def over(self, translations: Iterable[Translation]) -> Iterator[Translation]:
        for translation in translations:
            self.add(translation)
            yield translation

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def summary(self, translator: Any) -> str:
        limit = translator.limit
        parts = [f"{self.lines:,} lines in {self.seconds:.1f} s ({self.lines / max(self.seconds, 1e-9):.1f} lines/s)"]
        if self.cut:
            parts.append(f"{self.cut:,} outputs cut at their bound (source tokens + 50, the model's limit, or your own)")
        if self.split:
            parts.append(f"{self.split:,} lines longer than the model's {limit:,} tokens, translated in pieces")
        return "; ".join(parts)
