"""Search for the best outputs: ours, the fast road. (`paper_decoding.py` is about the one of transformers.)

    >>> search(model, [tokenizer("A man sleeps.")["input_ids"]], SearchOptions(num_beams=4))[0][0].token_ids
    >>> model.generate(**batch, num_beams=4, custom_generate="beam_search")

Greedy search and sampling are in `one_by_one.py`, beam search and its conventions in `beams.py`; a step of the decoder is in
`incremental_decoder.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from .beams import BeamSearch
from .decoder_weights import DecoderWeights
from .forbidden_tokens import ForbiddenTokens
from .forced_decoding import evaluation, pad
from .freed_memory import keep_freed_memory
from .hypotheses import Hypothesis
from .laid_out_encoder import LaidOutEncoder
from .one_by_one import write_one_by_one
from .search_options import SearchOptions


def search(
    models,
    sources: Sequence[Sequence[int]],
    options: SearchOptions | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The best outputs of one batch of sources: `Searcher.search` once."""
    return Searcher(models).search(sources, options, prefixes, numbers)


class Searcher:
    """Searches many batches with the same weights, which are laid out once. They must not change while it is used.

    Args:
        models: a `VanillaTransformerForConditionalGeneration`, or several with one vocabulary, an ensemble: P is then the
            mean of theirs.

    Raises:
        ValueError: models of several vocabularies or devices.
    """

    def __init__(self, models):
        self.models = list(models) if isinstance(models, Sequence) else [models]
        _check_models(self.models)
        if self.models[0].device.type == "cpu":
            keep_freed_memory()
        self._encoders: list[LaidOutEncoder] | None = None
        self._weights: dict[bool, list[DecoderWeights]] = {}

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs of one batch of sources.

        Args:
            sources: ids of each, ending in `</s>`. Best of similar length.
            options: see `SearchOptions`.
            prefixes: for each source, what its output must begin with. It counts as written: it is in `token_ids` and scores.
            numbers: for each source what its samples are drawn by, besides `options.seed`; its place if not given.

        Returns:
            For each source `options.n_best` hypotheses, best first; fewer where the model has no more that are allowed.

        Raises:
            ValueError: a source without tokens or longer than the model allows, a beam wider than the vocabulary, a prefix
                that leaves no room, constraints that leave nothing to write, a model that computes NaN.
        """
        if not sources:
            return []
        for number, source in enumerate(sources, start=1):
            if not len(source):
                raise ValueError(f"source {number} has no tokens: leave it out, there is nothing to translate")
        with _evaluation(self.models):
            first = self.models[0]
            input_ids, mask = pad([list(source) for source in sources], first.config.pad_token_id, first.device)
            if self._encoders is None:
                self._encoders = [LaidOutEncoder(model, input_ids.numel()) for model in self.models]
            encoded = [(encoder(input_ids, mask), mask) for encoder in self._encoders]
            return self.search_encoded(encoded, options or SearchOptions(), prefixes, numbers)

    def search_encoded(
        self,
        encoded: Sequence[tuple[torch.Tensor, torch.Tensor]],
        options: SearchOptions,
        prefixes: Sequence[Sequence[int]] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """As `search`, of sources that went through the encoder already.

        Args:
            encoded: of each model the states (N, S, D) of its encoder, and (N, S) 1 for tokens and 0 for padding.
        """
        first = self.models[0].config
        _check_tokens(first.vocab_size, options, prefixes or ())
        lengths = encoded[0][1].sum(1).tolist()
        prefixes = [()] * len(lengths) if prefixes is None else prefixes
        numbers = range(len(lengths)) if numbers is None else numbers
        limit = min(model.config.max_position_embeddings for model in self.models)
        bounds = [options.most(length, limit) for length in lengths]
        for number, (length, prefix, bound) in enumerate(zip(lengths, prefixes, bounds, strict=True), start=1):
            if not length:
                raise ValueError(f"source {number} is all padding: leave it out, there is nothing to translate")
            if len(prefix) >= bound:
                raise ValueError(
                    f"the prefix {list(prefix)} has {len(prefix)} tokens, and the output at most {bound}: shorten it"
                )
        least = [min(options.least(length), bound) for length, bound in zip(lengths, bounds, strict=True)]
        ends = first.eos_token_id
        ends = [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]
        with _evaluation(self.models):
            weights = self._laid_out(len(lengths) * max(options.num_beams, options.n_best))
            forbidden = ForbiddenTokens(options, ends, least, prefixes, self.models[0].device)
            if options.do_sample or options.num_beams == 1:
                return write_one_by_one(weights, encoded, options, bounds, ends, forbidden, numbers)
            return BeamSearch(weights, encoded, options, bounds, ends, forbidden).run()

    def _laid_out(self, rows: int) -> list[DecoderWeights]:
        several = rows > 1  # more of them are laid out alike
        if several not in self._weights:
            self._weights[several] = [DecoderWeights(model, rows) for model in self.models]
        return self._weights[several]


@contextmanager
def _evaluation(models: Sequence) -> Iterator[None]:
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluation(model))
        stack.enter_context(torch.inference_mode())
        yield


def _check_models(models: Sequence) -> None:
    first = models[0].config
    for model in models:
        for name in ("vocab_size", "tokenizer_fingerprint", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
            ours, other = getattr(first, name), getattr(model.config, name)
            if ours != other:
                raise ValueError(
                    f"the models of an ensemble must have one vocabulary: {name} is {ours} in the first and {other} in another"
                )
        if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
            raise ValueError(
                "our search needs a model on one device: use model.generate, or load it without device_map"
            )
        if model.device != models[0].device:
            raise ValueError(
                f"the models of an ensemble must be on one device: the first is on {models[0].device}, another on {model.device}"
            )


def _check_tokens(vocab_size: int, options: SearchOptions, prefixes: Sequence[Sequence[int]]) -> None:
    if options.num_beams > vocab_size:
        raise ValueError(f"num_beams={options.num_beams} is more than the {vocab_size} tokens of the vocabulary")
    for tokens in (*prefixes, options.suppress_tokens, *options.banned, *options.required):
        for token in tokens:
            if not 0 <= token < vocab_size:
                raise ValueError(f"token {token} of a constraint is not in the vocabulary of {vocab_size} tokens")
