"""The search of transformers in the form of ours, for what ours does not have."""

import torch

from .forced_decoding import evaluation, pad, token_log_probs
from .hypotheses import Hypothesis, hypothesis
from .search_options import SearchOptions

# What our search has, and transformers has not, or in another way.
_NOT_THERE = ("coverage_penalty", "num_beam_groups", "max_length_ratio", "min_length_ratio", "banned", "required")


@torch.no_grad()
def search_by_transformers(
    model, sources: list[list[int]], options: SearchOptions, others: dict
) -> list[list[Hypothesis]]:
    """As `search`, with `model.generate`.

    Args:
        options: what both have.
        others: arguments of `generate` that ours does not have.

    Raises:
        ValueError: an option that transformers does not have, or whatever `generate` refuses.
    """
    for name in _NOT_THERE:
        if getattr(options, name) != getattr(SearchOptions, name):
            raise ValueError(f"{name} does not go with {next(iter(others))}, which is for transformers: leave one out")
    how = {
        "num_beams": options.num_beams,
        "num_return_sequences": options.n_best,
        "do_sample": options.do_sample,
        "length_penalty_kind": options.length_penalty_kind,
        "max_length": None,
        "max_new_tokens": options.max_new_tokens,
        "max_new_tokens_beyond_source": options.max_new_tokens_beyond_source,
        "suppress_tokens": list(options.suppress_tokens),
    }
    if options.min_new_tokens:
        how["min_new_tokens"] = options.min_new_tokens
    if options.no_repeat_ngram_size:
        how["no_repeat_ngram_size"] = options.no_repeat_ngram_size
    if options.num_beams > 1:  # elsewhere transformers warns that it has no use for them
        how |= {"length_penalty": options.length_penalty, "early_stopping": options.early_stopping}
    how |= others
    if how["do_sample"]:
        how = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p} | how
    pad_token_id = model.config.pad_token_id
    ends = model.config.eos_token_id
    with evaluation(model):
        input_ids, attention_mask = pad(sources, pad_token_id, model.device)
        sequences = model.generate(input_ids, attention_mask=attention_mask, **how)[:, 1:].tolist()
        outputs = [row[: row.index(pad_token_id)] if pad_token_id in row else row for row in sequences]
        # Not the scores of `generate`: to return them it keeps the whole vocabulary's of every step, and those of
        # a sampled output are of the distribution after temperature and top-k.
        repeated = [source for source in sources for _ in range(options.n_best)]
        rows = token_log_probs(model, repeated, outputs, pad_token_id)
    ends = ends if isinstance(ends, list) else [ends]
    found = [hypothesis(ids, row, ends, options) for ids, row in zip(outputs, rows, strict=True)]
    groups = [found[first : first + options.n_best] for first in range(0, len(found), options.n_best)]
    # Beams come sorted; samples come as they were drawn.
    return [sorted(group, key=lambda one: -one.normalized_score) for group in groups] if how["do_sample"] else groups
