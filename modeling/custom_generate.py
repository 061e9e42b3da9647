"""Our search for those who call `generate` of transformers.

    >>> model.generate(**batch, num_beams=4, custom_generate="beam_search")

Same arguments, same tokens, several times faster.
"""

import torch
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput

from .beam_search import Searcher
from .search_options import SearchOptions

# What transformers makes of the fields of a configuration that are read below. Whatever else it makes, we lack.
_UNDERSTOOD = {
    "EosTokenCriteria",
    "MaxLengthCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
}


def beam_search(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """What `generate` calls in place of its own search, for `num_beams=1` and `do_sample` too.

    Args:
        input_ids: (N x K, 1), `<s>`; K rows of each sentence.
        logits_processor, stopping_criteria, generation_config: what `generate` made of its arguments.
        model_kwargs: with `encoder_outputs` and `attention_mask`, K rows of each sentence.

    Returns:
        (N x num_return_sequences, T) with `<s>` in front and padding behind, or with `return_dict_in_generate` an output
        with these `sequences`, and `sequences_scores`.

    Raises:
        ValueError: an option that our search does not have, by the name that transformers gives it.
    """
    for part in (*logits_processor, *stopping_criteria):
        if type(part).__name__ not in _UNDERSTOOD:
            name = type(part).__name__
            raise ValueError(f"custom_generate='beam_search' has no {name}: leave out that option, or custom_generate")
    if input_ids.shape[1] != 1:
        raise ValueError("custom_generate='beam_search' takes no decoder_input_ids; a Translator takes a target_prefix")
    asked = generation_config
    for name, given in (("eos_token_id", asked.eos_token_id), ("decoder_start_token_id", int(input_ids[0, 0]))):
        ours = getattr(model.config, name)
        if _as_list(given) != _as_list(ours):
            raise ValueError(f"custom_generate='beam_search' ends and begins as model.config says: {name}={ours}, not {given}")
    copies = max(asked.num_beams, asked.num_return_sequences)
    states = model_kwargs["encoder_outputs"].last_hidden_state[::copies]
    source_mask = model_kwargs.get("attention_mask")
    source_mask = states.new_ones(states.shape[:2]) if source_mask is None else source_mask[::copies]
    options = SearchOptions(
        num_beams=asked.num_beams,
        n_best=asked.num_return_sequences,
        length_penalty=float(asked.length_penalty),
        length_penalty_kind=asked.length_penalty_kind,
        early_stopping=asked.early_stopping,
        max_new_tokens=asked.max_length - 1,
        max_new_tokens_beyond_source=asked.max_new_tokens_beyond_source,
        min_new_tokens=max(asked.min_new_tokens or 0, (asked.min_length or 0) - 1),
        do_sample=asked.do_sample,
        temperature=asked.temperature if asked.do_sample else 1.0,
        top_k=(asked.top_k or 0) if asked.do_sample else 0,
        top_p=asked.top_p if asked.do_sample and asked.top_p is not None else 1.0,
        seed=int(torch.randint(2**31, ())) if asked.do_sample else 0,
        no_repeat_ngram_size=asked.no_repeat_ngram_size or 0,
        suppress_tokens=tuple(asked.suppress_tokens or ()),
        banned=tuple(map(tuple, asked.bad_words_ids or ())),
    )
    found = Searcher(model).search_encoded([(states, source_mask.long())], options)
    for number, outputs in enumerate(found, start=1):
        if len(outputs) < options.n_best:
            raise ValueError(f"sentence {number} has {len(outputs)} possible outputs only: lower num_return_sequences")
    rows = [torch.tensor([int(input_ids[0, 0]), *output.token_ids]) for outputs in found for output in outputs]
    sequences = torch.nn.utils.rnn.pad_sequence(rows, True, model.config.pad_token_id or 0).to(input_ids.device)
    if not asked.return_dict_in_generate:
        return sequences
    scores = torch.tensor([output.normalized_score for outputs in found for output in outputs], device=input_ids.device)
    return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores)  # type: ignore[arg-type]


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]
