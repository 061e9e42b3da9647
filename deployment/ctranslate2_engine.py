"""An exported model in CTranslate2: ids in, hypotheses or log-probabilities out, as `beam_search.py` and `forced_decoding.py`.

What the beam search of CTranslate2 (4.8, src/decoding.cc) does, in the words of `SearchOptions`:

    early_stopping   True: a sentence is done as soon as `num_beams` hypotheses have finished. It knows nothing else.
    length_penalty   ranks what has finished, and nothing before: by log P / n^alpha, where n counts `</s>` if that is asked
                     for (`return_end_token`; the default does not). So the paper's kind is had by ranking anew what it
                     returns, all `num_beams` of it. Where more have finished in the last step (at most 2 `num_beams` - 1),
                     the worst by n^alpha are gone by then; with 3/4 of the paper's alpha, which is as steep as the
                     paper's where n = 15, they are hardly ever the paper's best. That alone keeps the paper's kind from
                     being exact. With alpha = 0 CTranslate2 would stop by another rule: it gets 1e-6.
    bounds           one for a batch. Sentences that may have run past their own are done again with it, so that a sentence
                     has the same outputs alone and in any batch.
    min_new_tokens   one for a batch, without `</s>`, and 1 by default, which forbids an empty output.
    forbidden tokens leave their probability to the others (in ours they do not), so that its scores are not ln P of the
                     model. Those returned here are: what is returned is read by the model once more.

With these, and early_stopping=True, it finds what our search and transformers' `generate` find, token for token, up to ties in
float32; `ctranslate2_equality.py` holds every export to that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vanilla_transformer.deployment.ctranslate2_specification import import_ctranslate2
from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.forced_decoding import LOGITS_AT_ONCE
from vanilla_transformer.modeling.hypotheses import Hypothesis, hypothesis
from vanilla_transformer.modeling.length_penalty import length_divisor
from vanilla_transformer.modeling.search_options import SearchOptions

# Of SearchOptions, what CTranslate2 has no way to do: {field: (its only value, why)}.
REFUSED: dict[str, tuple[object, str]] = {
    "do_sample": (False, "CTranslate2 cannot draw by a seed for each sentence"),
    "coverage_penalty": (0.0, "CTranslate2 reckons it in another way"),
    "num_beam_groups": (1, "CTranslate2 has no diverse beam search"),
    "diversity_penalty": (0.0, "CTranslate2 has no diverse beam search"),
    "required": ((), "CTranslate2 has no constraints on what must be written"),
    "early_stopping": (True, "CTranslate2 stops a sentence as soon as num_beams outputs have finished"),
}


def check_options(options: Mapping[str, object]) -> None:
    """ValueError, with the option's name, for what CTranslate2 cannot do."""
    for name, (value, reason) in REFUSED.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name}={options[name]!r}: {reason}; with CTranslate2 it is always {value!r}")


def cpu_type(precision: str) -> str:
    """The compute type nearest to a precision that this CPU has: CTranslate2 would choose it too, with a warning."""
    known = import_ctranslate2().get_supported_compute_types("cpu")
    fallback = "int8_float32" if precision.startswith("int8") and "int8_float32" in known else "float32"
    return precision if precision in known else fallback


class CTranslate2Engine:
    """The model of a folder that `export-ctranslate2` wrote, or of any that holds its `model.bin` and vocabulary.

    It can stand where a `Translator` has its model: it has a `config`, a `device` and a mode (evaluation, always).

    Args:
        folder: holds model.bin, config.json and shared_vocabulary.json.
        config: the configuration of the model it was made from.
        device: "cpu", "cuda" or "cuda:1"; if not given, a GPU where there is one.
        compute_type: as CTranslate2 names them, for example "int8"; "default" is the one it was exported with, or the
            nearest that the device has.
        threads: of one translation; 0 leaves it to CTranslate2 (OMP_NUM_THREADS, or at most 4).

    Raises:
        ValueError: CTranslate2 is not installed, or cannot load it so.
    """

    training = False

    def __init__(
        self,
        folder: Path,
        config: VanillaTransformerConfig,
        device: str | None = None,
        compute_type: str = "default",
        threads: int = 0,
    ):
        ctranslate2 = import_ctranslate2()
        if device is None:
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        kind, _, index = str(device).partition(":")
        if kind not in ("cpu", "cuda") or not (index or "0").isdigit():
            raise ValueError(f"device={device}: CTranslate2 runs on cpu, cuda, cuda:1 ...")
        if not isinstance(threads, int) or threads < 0:
            raise ValueError(f"threads={threads!r} must be a whole number, 0 or more")
        try:
            self.translator = ctranslate2.Translator(
                str(folder), kind, device_index=int(index or 0), compute_type=compute_type, intra_threads=threads
            )
            vocabulary = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{folder}: CTranslate2 cannot load it: {' '.join(str(error).split())}") from error
        self.config: Any = config
        self.device = torch.device(device)
        self.compute_type: str = self.translator.compute_type
        self.vocabulary: list[str] = vocabulary
        self.ids = {piece: token_id for token_id, piece in enumerate(vocabulary)}

    def eval(self) -> CTranslate2Engine:
        return self

    def train(self, mode: bool = True) -> CTranslate2Engine:
        if mode:
            raise ValueError("a model in CTranslate2 cannot be trained: train the one it was exported from")
        return self

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """As `token_log_probs`: for each target one number for each of its tokens, in nats."""
        end = self.config.eos_token_id
        whole = [target[-1] == end for target in targets]
        results = self.translator.score_batch(
            [self._pieces(source) for source in sources],
            # It writes `</s>` behind each by itself.
            [self._pieces(target[:-1] if ended else target) for target, ended in zip(targets, whole, strict=True)],
            max_batch_size=max(1, LOGITS_AT_ONCE // self.config.vocab_size),  # it holds the logits of a whole batch
            batch_type="tokens",
            max_input_length=0,  # otherwise it cuts at 1,024 without a word
        )
        return [
            result.log_probs if ended else result.log_probs[:-1] for result, ended in zip(results, whole, strict=True)
        ]

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """As `beam_search.search`, of one batch. ValueError for options that CTranslate2 does not have."""
        check_options(vars(options))
        if options.num_beams > self.config.vocab_size:
            raise ValueError(f"num_beams={options.num_beams} is more than the vocabulary has: {self.config.vocab_size}")
        limit = self.config.max_position_embeddings
        prefixes = [()] * len(sources) if prefixes is None else prefixes
        bounds, least = [], []
        for number, (source, prefix) in enumerate(zip(sources, prefixes, strict=True), start=1):
            if not 1 <= len(source) <= limit:
                raise ValueError(f"source {number} has {len(source)} tokens: at least 1, at most {limit} are allowed")
            if list(source) == [self.config.eos_token_id]:
                raise ValueError(f"source {number} is nothing but </s>, for which CTranslate2 writes nothing")
            bounds.append(options.most(len(source), limit))
            least.append(min(options.least(len(source)), bounds[-1]))
            if len(prefix) >= bounds[-1]:
                raise ValueError(
                    f"the prefix of text {number} has {len(prefix)} tokens, and its output at most {bounds[-1]}"
                )
        found: dict[int, list[tuple[list[int], float]]] = {}
        # With a prefix, the first token behind it follows a rule of its own (an output cannot end there but in the best beam),
        # which would hold for all of a batch.
        kinds = list(zip(least, map(bool, prefixes), strict=True))
        for kind in sorted(set(kinds)):
            shortest = kind[0]
            group = [i for i, own in enumerate(kinds) if own == kind]
            longest = max(bounds[i] for i in group)
            results = dict(zip(group, self._run(group, sources, prefixes, options, longest, shortest), strict=True))
            # `num_beams` came back. If the search went on to the bound or past it, one of them at least is as long.
            again = [i for i in group if bounds[i] < longest and max(len(ids) for ids, _ in results[i]) >= bounds[i]]
            for bound in sorted({bounds[i] for i in again}):
                some = [i for i in again if bounds[i] == bound]
                results |= zip(some, self._run(some, sources, prefixes, options, bound, shortest), strict=True)
            found |= results
        return self._ranked(sources, found, options, with_prefixes=any(map(bool, prefixes)))

    def _run(
        self,
        which: Sequence[int],
        sources: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        options: SearchOptions,
        most: int,
        least: int,
    ) -> list[list[tuple[list[int], float]]]:
        """For each of the sources `which`, `num_beams` outputs, each with the score that CTranslate2 gives it."""
        alpha = options.length_penalty * (0.75 if options.length_penalty_kind == "paper" else 1.0) or 1e-6
        forbidden = [(token,) for token in options.suppress_tokens] + list(options.banned)
        results = self.translator.translate_batch(
            [self._pieces(sources[i]) for i in which],
            [self._pieces(prefixes[i]) for i in which] if prefixes[which[0]] else None,
            beam_size=options.num_beams,
            num_hypotheses=options.num_beams,
            length_penalty=alpha,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            suppress_sequences=[self._pieces(phrase) for phrase in forbidden] or None,
            max_decoding_length=most,
            min_decoding_length=max(least - 1, 0),
            max_input_length=0,
            return_end_token=True,
            return_scores=True,
        )
        return [
            [
                ([self.ids[piece] for piece in pieces], score * len(pieces) ** alpha)
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]

    def _ranked(
        self,
        sources: Sequence[Sequence[int]],
        found: dict[int, list[tuple[list[int], float]]],
        options: SearchOptions,
        with_prefixes: bool,
    ) -> list[list[Hypothesis]]:
        """The `n_best` of each by the length penalty asked for, with the model's own scores."""

        def normalized(output: tuple[list[int], float]) -> float:
            ids, score = output
            return score / length_divisor(len(ids), options.length_penalty, options.length_penalty_kind)

        best: list[tuple[int, list[int]]] = []
        for index in range(len(sources)):
            # In its scores a prefix counts for nothing, which only matters to outputs of different lengths.
            count = None if with_prefixes else options.n_best
            outputs = sorted(found[index], key=normalized, reverse=True)[:count]
            best += [(index, ids) for ids, _ in outputs]
        log_probs = self.score([sources[index] for index, _ in best], [ids for _, ids in best])
        ranked: list[list[Hypothesis]] = [[] for _ in sources]
        for (index, ids), row in zip(best, log_probs, strict=True):
            ranked[index].append(hypothesis(ids, row, [self.config.eos_token_id], options))
        return [sorted(row, key=lambda h: -h.normalized_score)[: options.n_best] for row in ranked]

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.vocabulary[token_id] for token_id in ids]
