"""Is an export the same model? Measured, before anybody gets to see it.

What is compared, on sentences of a file or, without one, on sequences of random pieces, and always on some random pairs more, of
which one is as long as the model allows (so that every position is looked at, and pieces that no sample has):

    forced     ln P of every token of given pairs: the model's own outputs, the output of another sentence, random ones
    greedy     outputs, token for token
    beam       all four outputs of four beams, token for token, under the one convention that CTranslate2 has

**Limits.** In float32 there is no room for taste: both engines round, so both differ from the same model in float64. Ours,
measured on the same pairs, is what rounding costs here; CTranslate2's may be four times as much, and 1e-6 (it was 1.1 and
1.9 times as much on two trained models; layer_norm_epsilon 1e-5 in place of 1e-6, the smallest mistake we know, makes it
13 and 6 times, and is looked at in the file besides). Outputs must be equal, up to ties: where they part, the two tokens
must be equally likely to within twice the largest difference allowed.

In other precisions the weights are others, and so are some outputs. Whether the export is right is known by then, from its
float32 form; the limit on the mean difference, per token, says that quantising has not broken the model. Measured on
trained models of width 128: int8 0.009 to 0.014, bfloat16 0.004, int16 0.002, float16 0.0005 nats.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine
from vanilla_transformer.modeling.beam_search import search
from vanilla_transformer.modeling.forced_decoding import batches, evaluation, token_log_probs
from vanilla_transformer.modeling.modeling_vanilla_transformer import VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.search_options import SearchOptions

# Of the mean difference of ln P, in nats a token, by the precision of the weights.
MEAN_LIMITS = {
    "float16": 0.005,
    "bfloat16": 0.05,
    "int16": 0.02,
    "int8": 0.1,
    "int8_float32": 0.1,
    "int8_float16": 0.1,
    "int8_bfloat16": 0.1,
}
_TIMES_OUR_ROUNDING = 4
_LEAST_MEAN, _LEAST_LARGEST = 1e-6, 2e-5  # of models so small that they hardly round
_MAX_TOKENS = 4096  # in a batch
_LONGEST_RANDOM = 1024  # float64 on a CPU takes its time
_LONGEST_OUTPUT = 64  # an untrained model never ends

Ids = list[int]


@dataclass(frozen=True)
class Equality:
    """How far CTranslate2 is from us, in nats.

    Attributes:
        precision: of the weights in CTranslate2.
        tokens: that were given, and whose ln P was compared.
        mean, largest: difference of the ln P of a token.
        largest_of_a_sentence: difference of the ln P of a target.
        mean_limit, largest_limit: what was allowed (the largest is limited in float32 alone).
        sentences, greedy_equal, beam_equal: how many were translated, and how many outputs are the same tokens.
        greedy_ties, beam_ties: of the others, how many part at tokens, or end in outputs, that are equally likely.
        faults: what is wrong, in words; none if the export is right.
    """

    precision: str
    tokens: int
    mean: float
    largest: float
    largest_of_a_sentence: float
    mean_limit: float
    largest_limit: float | None
    sentences: int
    greedy_equal: int
    greedy_ties: int
    beam_equal: int
    beam_ties: int
    faults: list[str]


class Reference:
    """What our model says about a sample, measured once for all precisions.

    Args:
        model: in float32, on a CPU.
        sources: ids of the sample's texts.
        seed: of the random pairs.
    """

    def __init__(
        self, model: VanillaTransformerForConditionalGeneration, sources: Sequence[Ids], pieces: Sequence[int], seed=0
    ):
        config: Any = model.config
        self.model, self.sources = model, list(sources)
        self.pad, self.end = config.pad_token_id, config.eos_token_id
        most = min(_LONGEST_OUTPUT, config.max_position_embeddings - 1)
        common = {"max_new_tokens": most, "max_new_tokens_beyond_source": None, "early_stopping": True}
        self.greedy_options = SearchOptions(num_beams=1, **common)
        # As many as the vocabulary gives: two candidates for each beam.
        beams = max(1, min(4, config.vocab_size // 2))
        self.beam_options = SearchOptions(
            num_beams=beams, n_best=beams, length_penalty_kind="hf", length_penalty=1.0, **common
        )
        self.greedy = [found[0].token_ids for found in self._search(model, self.greedy_options)]
        self.beam = [[h.token_ids for h in found] for found in self._search(model, self.beam_options)]
        self.pairs = list(self._pairs(pieces, random.Random(seed)))
        self.log_probs = self.score(lambda sources, targets: token_log_probs(model, sources, targets, self.pad))
        exact = self._exact()
        rounding = [abs(a - b) for rows in zip(self.log_probs, exact, strict=True) for a, b in zip(*rows, strict=True)]
        self.exact = exact
        self.mean_limit = _LEAST_MEAN + _TIMES_OUR_ROUNDING * sum(rounding) / len(rounding)
        self.largest_limit = _LEAST_LARGEST + _TIMES_OUR_ROUNDING * max(rounding)

    def _pairs(self, pieces: Sequence[int], generator: random.Random) -> Iterator[tuple[Ids, Ids]]:
        outputs = [found[0] for found in self.beam]
        for index, source in enumerate(self.sources):
            yield source, outputs[index]
            yield source, outputs[index - 1]
        limit = min(self.model.config.max_position_embeddings, _LONGEST_RANDOM)
        for length in {limit, min(limit, 1), *(min(limit, length) for length in (2, 5, 11, 23))}:
            yield (
                [*generator.choices(pieces, k=length - 1), self.end],
                [*generator.choices(pieces, k=length - 1), self.end],
            )

    def score(self, score: Callable[[list[Ids], list[Ids]], list[list[float]]]) -> list[list[float]]:
        """`score(sources, targets)` of all pairs, in batches."""
        rows: list[list[float]] = [[] for _ in self.pairs]
        lengths = [max(len(source), len(target)) for source, target in self.pairs]
        with evaluation(self.model):
            for batch in batches(lengths, _MAX_TOKENS):
                scored = score([self.pairs[i][0] for i in batch], [self.pairs[i][1] for i in batch])
                for index, row in zip(batch, scored, strict=True):
                    rows[index] = row
        return rows

    def outputs(self, engine: CTranslate2Engine, options: SearchOptions) -> list[list[Ids]]:
        return [[h.token_ids for h in found] for found in self._search(engine, options)]

    def _search(self, engine: Any, options: SearchOptions) -> list[list[Any]]:
        found: list[list[Any]] = [[] for _ in self.sources]
        for batch in batches([len(source) for source in self.sources], _MAX_TOKENS // options.num_beams):
            some = [self.sources[i] for i in batch]
            results = (
                engine.search(some, options) if isinstance(engine, CTranslate2Engine) else search(engine, some, options)
            )
            for index, hypotheses in zip(batch, results, strict=True):
                found[index] = hypotheses
        return found

    @torch.no_grad()
    def _exact(self) -> list[list[float]]:
        """The ln P of all pairs in float64."""
        model = copy.deepcopy(self.model).double().eval()
        rows = []
        for source, target in self.pairs:
            labels = torch.tensor([target])
            inputs = model.prepare_decoder_input_ids_from_labels(labels)
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=inputs, use_cache=False).logits
            rows.append(logits.log_softmax(-1)[0].gather(1, labels[0, :, None])[:, 0].tolist())
        return rows


def compare(reference: Reference, engine: CTranslate2Engine, precision: str) -> Equality:
    """Ask CTranslate2 what the reference was asked. What is wrong stands in `faults`."""
    is_exact = precision == "float32"
    theirs = reference.score(engine.score)
    ours = reference.exact if is_exact else reference.log_probs
    by_pair = [[abs(a - b) for a, b in zip(*rows, strict=True)] for rows in zip(theirs, ours, strict=True)]
    differences = [d if math.isfinite(d) else math.inf for row in by_pair for d in row]
    mean, largest = sum(differences) / len(differences), max(differences)
    mean_limit = reference.mean_limit if is_exact else MEAN_LIMITS[precision]
    largest_limit = reference.largest_limit if is_exact else None
    faults = []
    if not mean <= mean_limit:
        faults.append(f"the mean difference of ln P, {mean:.2g} nats a token, is more than {mean_limit:.2g}")
    if largest_limit is not None and not largest <= largest_limit:
        faults.append(f"the largest difference of ln P, {largest:.2g} nats, is more than {largest_limit:.2g}")
    if math.isfinite(largest):
        greedy = [found[0] for found in reference.outputs(engine, reference.greedy_options)]
        beam = reference.outputs(engine, reference.beam_options)
    else:  # nothing can be written with NaN
        greedy, beam = [[] for _ in reference.sources], [[] for _ in reference.sources]
    tie = 2 * reference.largest_limit
    greedy_apart = [i for i, ids in enumerate(reference.greedy) if greedy[i] != ids]
    greedy_ties = sum(bool(greedy[i]) and _parts_at_a_tie(reference, i, greedy[i], tie) for i in greedy_apart)
    beam_apart = [i for i, ids in enumerate(reference.beam) if beam[i] != ids]
    beam_ties = sum(bool(beam[i]) and _equally_good(reference, i, beam[i], tie) for i in beam_apart)
    unexplained = len(greedy_apart) - greedy_ties
    if is_exact and unexplained:
        faults.append(f"{unexplained} of {len(greedy)} greedy outputs are others, and not because of a tie")
    # A tie for the last place in the beam may change everything behind it, and is not seen in the outputs: some are allowed.
    unexplained = len(beam_apart) - beam_ties
    if is_exact and unexplained > max(1, len(beam) // 20):
        faults.append(f"{unexplained} of {len(beam)} beams hold other outputs, and not because of ties")
    return Equality(
        precision=precision,
        tokens=len(differences),
        mean=mean,
        largest=largest,
        largest_of_a_sentence=max(abs(sum(a) - sum(b)) for a, b in zip(theirs, ours, strict=True)),
        mean_limit=mean_limit,
        largest_limit=largest_limit,
        sentences=len(greedy),
        greedy_equal=len(greedy) - len(greedy_apart),
        greedy_ties=greedy_ties,
        beam_equal=len(beam) - len(beam_apart),
        beam_ties=beam_ties,
        faults=faults,
    )


def _parts_at_a_tie(reference: Reference, index: int, theirs: Ids, tie: float) -> bool:
    """Whether two greedy outputs part at tokens of which each is likeliest, to within `tie` nats."""
    ours, source = reference.greedy[index], reference.sources[index]
    place = next((t for t, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if place is None:  # one goes on where the other ends
        return False
    rows = token_log_probs(reference.model, [source] * 2, [ours[: place + 1], theirs[: place + 1]], reference.pad)
    return abs(rows[0][place] - rows[1][place]) <= tie


def _equally_good(reference: Reference, index: int, theirs: list[Ids], tie: float) -> bool:
    """Whether the outputs of two beams, rank by rank, are worth the same to within `tie` nats a token."""
    ours, source = reference.beam[index], reference.sources[index]
    if len(ours) != len(theirs):
        return False
    rows = token_log_probs(reference.model, [source] * (2 * len(ours)), [*ours, *theirs], reference.pad)
    means = [sum(row) / len(row) for row in rows]
    return all(abs(a - b) <= tie for a, b in zip(means[: len(ours)], means[len(ours) :], strict=True))


def random_sources(pieces: Sequence[int], end: int, limit: int, count: int, seed: int = 0) -> list[Ids]:
    """Where there are no sentences: `count` sequences of 1 to 30 pieces (or as many as the model allows), ending in `</s>`."""
    generator = random.Random(seed)
    longest = max(1, min(30, limit - 1))
    return [[*generator.choices(pieces, k=generator.randint(1, longest)), end] for _ in range(count)]


def ordinary_pieces(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all pieces but special tokens; language tags are among them."""
    return sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))


def table(results: Sequence[Equality]) -> str:
    """For people to read: a line for each precision."""
    lines = ["precision      ln P of a token: mean (limit)   largest    sentence   greedy equal   4 beams equal"]
    for result in results:
        outputs = [
            f"{equal} of {result.sentences}" + (f" + {ties} ties" if ties else "")
            for equal, ties in ((result.greedy_equal, result.greedy_ties), (result.beam_equal, result.beam_ties))
        ]
        lines.append(
            f"{result.precision:<14} {result.mean:>15.1e} ({result.mean_limit:.1e})   {result.largest:<10.1e} "
            f"{result.largest_of_a_sentence:<10.1e} {outputs[0]:<14} {outputs[1]}"
        )
    return "\n".join(lines)
