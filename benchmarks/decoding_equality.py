"""Does our search write what transformers' `generate` and CTranslate2 write? On real sentences, token for token.

    python benchmarks/decoding_equality.py --model runs/en-de --report runs/equality.md

1,000 sentences of Multi30k's test part ($VANILLA_TRANSFORMER_DATA/multi30k), one model, the same conventions: a hypothesis of n
tokens is ranked by log P / n^alpha, and a sentence ends as `early_stopping` says. Four tables:

    1. ours against `generate` of the same model: greedy, beams of 2, 4 and 8, each with the three kinds of early stopping
    2. every sentence that differs, once more in float64, both sides. What differs in float32 alone is a near tie, decided by
       rounding; what is left in float64 would be another search
    3. ours against itself: other batch sizes, other orders, beside a long sentence, with padding
    4. CTranslate2 in float32 against ours, greedy and with 4 beams, `early_stopping=True`, the one way that it knows; for each
       difference, by how much the one is better

Ends with 1 if anything is left unexplained.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from decode_throughput import sources_of
from decoders import BOS, DECODERS, PAD, Decoding, Ids, plain_generation, write_ctranslate2
from transformers import LogitsProcessor, LogitsProcessorList

MAX_NEW_TOKENS = 100
NEAR = 1e-3  # nats: as far as float32 may move the sum of the log-probabilities of a sentence


# ----------------------------------------------------------------------------------------------------- both in float64


class InFloat64(LogitsProcessor):
    """Hands `generate`, which works in float32 whatever the model computes, the model's logits in float64.

    Sums of float64 and float32 are float64: so everything behind is.
    """

    def __init__(self, model, num_beams: int):
        self.log_softmax = num_beams > 1
        self.hook = model.lm_head.register_forward_hook(self.keep)

    def keep(self, module, inputs, output) -> None:
        self.logits = output[:, -1]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        exact = self.logits.log_softmax(-1) if self.log_softmax else self.logits
        return exact.masked_fill(scores == -torch.inf, -torch.inf)


def theirs(model, sources: Ids, how: Decoding, batch: int) -> Ids:
    """transformers' `generate`, in batches of sentences of equal lengths, `<pad>` and `<s>` being no output."""
    from decoders import generate

    exact = InFloat64(model, how.beams) if model.dtype == torch.float64 else None
    more = {"suppress_tokens": [PAD, BOS], "logits_processor": LogitsProcessorList([exact] if exact else [])}
    try:
        return in_batches(lambda some: generate(model, some, how, **more), sources, batch)
    finally:
        if exact:
            exact.hook.remove()


def ours(model, sources: Ids, how: Decoding, batch: int) -> Ids:
    from vanilla_transformer.modeling.beam_search import search
    from vanilla_transformer.modeling.search_options import SearchOptions

    options = SearchOptions(
        num_beams=how.beams, max_new_tokens=how.max_new_tokens, max_new_tokens_beyond_source=None,
        length_penalty=how.length_penalty, length_penalty_kind="hf", early_stopping=how.early_stopping,
        suppress_tokens=(PAD, BOS),
    )  # fmt: skip
    return in_batches(lambda some: [best[0].token_ids for best in search(model, some, options)], sources, batch)


def in_batches(decode: Callable[[Ids], Ids], sources: Ids, batch: int) -> Ids:
    return [output for first in range(0, len(sources), batch) for output in decode(sources[first : first + batch])]


# ------------------------------------------------------------------------------------------------------------- the report


def normalized(model, source: list[int], output: list[int], how: Decoding) -> float:
    """What a beam search compares, in float64, by a forward pass over the whole output."""
    from vanilla_transformer.modeling.forced_decoding import token_log_probs

    (log_probs,) = token_log_probs(model, [source], [output], PAD)
    return sum(log_probs) / (len(output) ** how.length_penalty if how.beams > 1 else 1)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def gap_at(model, source: list[int], a: list[int], b: list[int]) -> float:
    """Nats between the next tokens of two outputs where they part."""
    place = first_difference(a, b)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[BOS, *a[:place]]])).logits[0, -1]
    return abs((logits[a[place]] - logits[b[place]]).item())


class Report:
    """Lines, printed as they come and kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def table(self, title: str, *columns: str) -> None:
        self(f"\n### {title}\n")
        self(f"| {' | '.join(columns)} |")
        self(f"| --- |{' ---: |' * (len(columns) - 1)}")

    def row(self, *cells: object) -> None:
        self(f"| {' | '.join(map(str, cells))} |")


def against_generate(model, exact, sources: Ids, given: argparse.Namespace, report: Report) -> int:
    """Tables 1 and 2. How many differences are left in float64."""
    searches = [Decoding(1, MAX_NEW_TOKENS)] + [
        Decoding(beams, MAX_NEW_TOKENS, given.length_penalty, early)
        for beams in given.beams if beams > 1 for early in (False, True, "never")
    ]  # fmt: skip
    rows, gaps, left = [], [], 0
    report.table(
        f"Ours and `generate` of transformers, {len(sources)} sentences, alpha {given.length_penalty}",
        "search", "equal in float32", "differ", "of these equal in float64", "differ in float64", "ours, s", "`generate`, s",
    )  # fmt: skip
    for how in searches:
        start = time.perf_counter()
        mine = ours(model, sources, how, given.batch_size)
        between = time.perf_counter()
        other = theirs(model, sources, how, given.batch_size)
        end = time.perf_counter()
        differ = [number for number, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b]
        again = [sources[number] for number in differ]
        exactly = list(zip(ours(exact, again, how, given.batch_size), theirs(exact, again, how, given.batch_size), strict=True))
        name = "greedy" if how.beams == 1 else f"beam {how.beams}, early_stopping={how.early_stopping}"
        for number, (a, b) in zip(differ, exactly, strict=True):
            scores = [normalized(exact, sources[number], output, how) for output in (mine[number], other[number])]
            right = [who for who, output in (("ours", mine[number]), ("`generate`", other[number])) if output == a == b]
            gaps.append((name, number + 1, *(f"{score:.7f}" for score in scores), f"{scores[0] - scores[1]:+.1e}",
                         " ".join(right) or ("neither" if a == b else "they differ")))  # fmt: skip
        unequal = sum(a != b for a, b in exactly)
        left += unequal
        equal = len(sources) - len(differ)
        report.row(name, f"{equal} of {len(sources)}", len(differ), len(differ) - unequal, unequal,
                   f"{between - start:.1f}", f"{end - between:.1f}")  # fmt: skip
        rows.append(name)
    report.table(
        "Every difference in float32", "search", "sentence", "ours, normalized score", "`generate`'s", "ours − theirs",
        "written by both in float64",
    )  # fmt: skip
    for row in gaps:
        report.row(*row)
    if not gaps:
        report.row("none", "", "", "", "", "")
    return left


def against_itself(model, exact, sources: Ids, given: argparse.Namespace, report: Report) -> int:
    """Table 3. How many outputs change in float64."""
    import random

    how = Decoding(4, MAX_NEW_TOKENS, given.length_penalty)
    order = random.Random(1).sample(range(len(sources)), len(sources))
    long = max(sources, key=len)[:-1] * 3 + sources[0][-1:]

    def shuffled(model, sources: Ids) -> Ids:
        places = [place for place in order if place < len(sources)]
        written = ours(model, [sources[place] for place in places], how, given.batch_size)
        return [output for _, output in sorted(zip(places, written, strict=True))]

    def padded(model, sources: Ids) -> Ids:
        size = given.batch_size - 1
        groups = [[long, *sources[first : first + size]] for first in range(0, len(sources), size)]
        return [output for group in groups for output in ours(model, group, how, given.batch_size)[1:]]

    ways: dict[str, Callable[[Any, Ids], Ids]] = {
        "one at a time": lambda model, sources: ours(model, sources, how, 1),
        "7 at a time": lambda model, sources: ours(model, sources, how, 7),
        "all at once": lambda model, sources: ours(model, sources, how, len(sources)),
        "shuffled": shuffled,
        f"each batch with a sentence of {len(long)} tokens": padded,
    }
    report.table(
        f"Ours, beam 4, batches of {given.batch_size} sorted by length, and in other company", "company", "equal in float32",
        "differ", "of these differ in float64",
    )  # fmt: skip
    expected, left = ours(model, sources, how, given.batch_size), 0
    for name, decode in ways.items():
        differ = [number for number, (a, b) in enumerate(zip(decode(model, sources), expected, strict=True)) if a != b]
        again = [sources[number] for number in differ]
        unequal = sum(a != b for a, b in zip(decode(exact, again), ours(exact, again, how, 1), strict=True)) if again else 0
        left += unequal
        report.row(name, f"{len(sources) - len(differ)} of {len(sources)}", len(differ), unequal)
    return left


def against_ctranslate2(model, tokenizer, exact, sources: Ids, given: argparse.Namespace, report: Report) -> int:
    """Table 4. How many differences are no near ties."""
    differences: list[tuple[str, int, int, str]] = []
    report.table(
        f"CTranslate2 float32 and ours, {len(sources)} sentences, alpha {given.length_penalty}", "search", "equal", "differ",
        f"of these by more than {NEAR} nats",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ctranslate2(model, tokenizer, folder / "ct2-float32", "float32")
        decode = DECODERS["ct2-float32"](folder, "fp32", "cpu")
        for how in (Decoding(1, MAX_NEW_TOKENS), Decoding(4, MAX_NEW_TOKENS, given.length_penalty, True)):
            search = "greedy" if how.beams == 1 else f"beam {how.beams}, early_stopping=True"
            other = in_batches(lambda some, how=how: decode(some, how), sources, given.batch_size)
            mine = ours(model, sources, how, given.batch_size)
            gaps = []
            for number, (source, a, b) in enumerate(zip(sources, mine, other, strict=True), start=1):
                if a != b:
                    scores = [normalized(exact, source, output, how) for output in (a, b)]
                    gaps.append(gap_at(exact, source, a, b) if how.beams == 1 else abs(scores[0] - scores[1]))
                    differences.append((search, number, first_difference(a, b) + 1, f"{gaps[-1]:.1e}"))
            report.row(search, f"{len(sources) - len(gaps)} of {len(sources)}", len(gaps), sum(gap > NEAR for gap in gaps))
    report.table(
        "Every difference", "search", "sentence", "first at token",
        "nats between the two tokens there (greedy), or between the normalized scores (beam)",
    )  # fmt: skip
    for row in differences:
        report.row(*row)
    if not differences:
        report.row("none", "", "", "")
    return sum(float(row[3]) > NEAR for row in differences)


def main() -> None:
    from vanilla_transformer.modeling import Translator

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--beams", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--length-penalty", type=float, default=1.0, help="alpha")
    parser.add_argument("--without-ctranslate2", action="store_true")
    parser.add_argument("--report", help="file to write the tables to")
    given = parser.parse_args()
    translator = Translator.from_pretrained(given.model, device="cpu")
    model: Any = translator.model
    model.generation_config = plain_generation()
    exact = copy.deepcopy(model).double()
    sources = sources_of(translator.tokenizer, given.sentences)
    report = Report()
    left = against_generate(model, exact, sources, given, report) + against_itself(model, exact, sources, given, report)
    if not given.without_ctranslate2:
        left += against_ctranslate2(model, translator.tokenizer, exact, sources, given, report)
    report(f"\nDifferences that near ties in float32 do not explain: {left}.")
    if given.report:
        Path(given.report).write_text("\n".join(report.lines) + "\n", encoding="utf-8")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
