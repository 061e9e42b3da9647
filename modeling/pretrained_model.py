"""What the bare model and all heads share: how weights begin, and what is saved with them."""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_vanilla_transformer import FORMAT_VERSION, VanillaTransformerConfig
from .pipeline_vanilla_transformer import CUSTOM_PIPELINES
from .positions import SinusoidalPositions, sinusoid_table


class VanillaTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving, common to the bare model and every head.

    The paper does not say how weights begin. Here, as in fairseq:

        W^Q, W^K, W^V                   uniform, Xavier's bound sqrt(6 / (fan_in + fan_out)) times sqrt(1/2)
        other projections               uniform, Xavier's bound; biases 0
        embeddings                      normal, deviation D^-0.5 (times sqrt(D): inputs of unit size); padding 0
        layer normalisation             gain 1, bias 0

    Without the sqrt(1/2), post-norm encoders begin with outputs that hardly differ between positions (mean cosine 0.91
    after 4 layers), cross-attention has nothing to choose from, and a small model with dropout may never recover: it
    translates bags of words (docs/experiments.md, 2026-11-21).
    """

    config: VanillaTransformerConfig
    config_class = VanillaTransformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            # The layer carries its gain, because the attention around it is never asked: of custom code, transformers
            # initialises only modules with parameters of their own.
            init.xavier_uniform_(module.weight, gain=getattr(module, "initial_gain", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
            # transformers marks what it has loaded, so that it is not drawn again; a slice does not carry the mark.
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SinusoidalPositions):
            # Not saved, so `from_pretrained` leaves uninitialised memory here until this line.
            init.copy_(module.table, sinusoid_table(*module.table.shape))

    def _resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of=None, mean_resizing=True):
        embeddings = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        # transformers resizes the matrices of source and output, and leaves the target's to tying.
        decoder = getattr(self.base_model, "decoder", None)
        if decoder is not None and decoder.embed_tokens is not embeddings:
            decoder.embed_tokens = self._get_resized_embeddings(
                decoder.embed_tokens, embeddings.num_embeddings, mean_resizing=mean_resizing
            )
        return embeddings

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; the folder then loads with `trust_remote_code=True` where our package is absent."""
        self.config.format_version = FORMAT_VERSION
        self.config.auto_map = auto_map()
        self.config.custom_pipelines = deepcopy(CUSTOM_PIPELINES) if self.can_generate() else {}
        super().save_pretrained(*args, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        input_ids = torch.tensor([[3, 4, 5, 2]], device=self.device)
        return {"input_ids": input_ids, "decoder_input_ids": input_ids}


def auto_map() -> dict[str, str]:
    """{Auto class: the class that it shall load where our package is absent}, for every model's config.json.

    `save_pretrained` by itself would write only the entry of the class that is saved. It writes that one last: the folder
    of an encoder or of a parser, for which transformers has no Auto class of its own, says so under "AutoModel".
    """
    # Here, because they all import this file. By these lines transformers knows which further files belong to a model, so
    # that they lie in every folder.
    from .dependency_parsing import VanillaTransformerForDependencyParsing
    from .heads import VanillaTransformerForSequenceClassification, VanillaTransformerForTokenClassification
    from .modeling_vanilla_transformer import (
        VanillaTransformerEncoderModel,
        VanillaTransformerForConditionalGeneration,
        VanillaTransformerModel,
    )

    classes = {
        "AutoConfig": VanillaTransformerConfig,
        "AutoModel": VanillaTransformerModel,
        "AutoModelForSeq2SeqLM": VanillaTransformerForConditionalGeneration,
        "AutoModelForSequenceClassification": VanillaTransformerForSequenceClassification,
        "AutoModelForTextEncoding": VanillaTransformerEncoderModel,
        "AutoModelForTokenClassification": VanillaTransformerForTokenClassification,
        # No class of transformers asks for it; get_class_from_dynamic_module may.
        "AutoModelForDependencyParsing": VanillaTransformerForDependencyParsing,
    }
    return {auto: f"{one.__module__.rsplit('.', 1)[-1]}.{one.__name__}" for auto, one in classes.items()}
