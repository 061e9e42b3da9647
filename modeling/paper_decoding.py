"""What the decoding of transformers lacks: the paper's length penalty and bound on the output (section 6.1).

Two fields more for `model.generate`, as arguments or in `generation_config.json`:

    length_penalty_kind
        "hf", the default, or "paper"; see `length_penalty.py`.
    max_new_tokens_beyond_source
        an output has at most as many tokens as its source, and so many more; the paper: 50.

To give a model lasting defaults, set `model.generation_config` to a new `GenerationConfig(...)` with them: from one
that transformers derived from the model's configuration, fields it does not know are lost when it is loaded.

An output that reaches the bound is returned without `</s>`: that is how to tell that it was cut.
"""

# transformers types `self` in its mixin by a protocol that a mixin on top of it cannot fulfil.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import torch
from transformers import GenerationConfig, GenerationMixin, StoppingCriteria

from .custom_generate import beam_search
from .length_penalty import PaperLengthPenalty, length_divisor


class SourceLengthBound(StoppingCriteria):
    """Stops each sentence at its own bound, so that a sentence gets the same output alone and in any batch.

    Args:
        bounds: (B,) the most tokens that each sentence's output may have.
        prompt_length: tokens that stand before the output, `<s>` among them.
    """

    def __init__(self, bounds: torch.Tensor, prompt_length: int = 1):
        self.last_lengths = bounds + prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs) -> torch.Tensor:
        """(B x hypotheses, T) -> (B x hypotheses,) True where the output must not go on."""
        hypotheses = input_ids.shape[0] // self.last_lengths.shape[0]
        return input_ids.shape[1] >= self.last_lengths.repeat_interleave(hypotheses)


class PaperDecoding(GenerationMixin):
    """`generate` with the fields above. Stands before `GenerationMixin` among the bases of a model."""

    def generate(self, *arguments, custom_generate=None, **options):
        """As in transformers; with `custom_generate="beam_search"` by our own search, see `custom_generate.py`."""
        if custom_generate == "beam_search":
            custom_generate = beam_search
        return super().generate(*arguments, custom_generate=custom_generate, **options)

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs):
        # transformers takes unknown fields from a configuration, but as arguments it refuses them.
        names = ("length_penalty_kind", "max_new_tokens_beyond_source")
        given = {name: kwargs.pop(name) for name in names if name in kwargs}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name in names:
            setattr(generation_config, name, given.get(name, getattr(generation_config, name, None)))
        if generation_config.length_penalty_kind is None:
            generation_config.length_penalty_kind = "hf"
        # Refuses nonsense here and not where it is used, so that greedy search refuses it too.
        length_divisor(1, generation_config.length_penalty, generation_config.length_penalty_kind)
        beyond = generation_config.max_new_tokens_beyond_source
        if beyond is not None and not (isinstance(beyond, int) and beyond >= 0):
            raise ValueError(f"max_new_tokens_beyond_source={beyond!r} must be a whole number, 0 or more")
        return generation_config, model_kwargs

    def _prepare_generated_length(self, generation_config, has_default_max_length, inputs_tensor, **kwargs):
        beyond = generation_config.max_new_tokens_beyond_source
        if (
            beyond is not None
            and generation_config.max_new_tokens is None
            and (has_default_max_length or generation_config.max_length is None)
        ):
            # For the whole batch: room for the longest source. Each sentence's own bound comes in _bounded.
            room = self.config.max_position_embeddings - kwargs["input_ids_length"]
            generation_config.max_new_tokens = min(inputs_tensor.shape[1] + beyond, room)
            generation_config.max_length = None
        return super()._prepare_generated_length(
            generation_config=generation_config,
            has_default_max_length=has_default_max_length,
            inputs_tensor=inputs_tensor,
            **kwargs,
        )

    def _sample(self, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        # Greedy search too: transformers calls it sampling without chance.
        self._bound(input_ids, stopping_criteria, generation_config, kwargs)
        return super()._sample(input_ids, logits_processor, stopping_criteria, generation_config, **kwargs)

    def _beam_search(self, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        self._bound(input_ids, stopping_criteria, generation_config, kwargs)
        # `generate` works on a copy of the configuration, which ends with the call.
        if generation_config.length_penalty_kind == "paper":
            generation_config.length_penalty = PaperLengthPenalty(generation_config.length_penalty)
        wants_everything = generation_config.return_dict_in_generate
        generation_config.return_dict_in_generate = True
        output = super()._beam_search(input_ids, logits_processor, stopping_criteria, generation_config, **kwargs)
        # transformers pads with `</s>` where the id of `<pad>` is 0: a cut output would look finished.
        padding = generation_config._pad_token_tensor
        if padding is not None:
            lengths = input_ids.shape[1] + (output.beam_indices >= 0).sum(-1, keepdim=True)
            places = torch.arange(output.sequences.shape[1], device=lengths.device)
            output.sequences = torch.where(places < lengths, output.sequences, padding)
        return output if wants_everything else output.sequences

    def _bound(self, input_ids, stopping_criteria, generation_config, model_kwargs) -> None:
        beyond = generation_config.max_new_tokens_beyond_source
        if beyond is None:
            return
        source = model_kwargs.get("attention_mask")
        if source is None:
            source = torch.ones(model_kwargs["encoder_outputs"].last_hidden_state.shape[:2])
        # One row for each beam or sample of a sentence, side by side: the first of them will do.
        hypotheses = max(generation_config.num_beams, generation_config.num_return_sequences)
        lengths = source.to(input_ids.device).long().sum(-1)[::hypotheses]
        stopping_criteria.append(SourceLengthBound(lengths + beyond, prompt_length=input_ids.shape[1]))
