"""ids -> logits, loss, decoded ids. Every file of this room but this one travels to the Hub with each model.

Importing this room (or `vanilla_transformer.tokenization`) registers our classes with the Auto classes of transformers,
and the pipeline.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.pipelines import PIPELINE_REGISTRY

from vanilla_transformer.tokenization import VanillaTransformerTokenizer

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dependency_parsing import DependencyParserOutput, VanillaTransformerForDependencyParsing
from .heads import (
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerHead,
)
from .modeling_vanilla_transformer import (
    VanillaTransformerEncoderModel,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerModel,
)
from .pipeline_vanilla_transformer import TASK, VanillaTranslationPipeline
from .pretrained_model import VanillaTransformerPreTrainedModel
from .stacks import VanillaTransformerDecoder, VanillaTransformerEncoder
from .translator import Translation, Translator

AutoConfig.register(VanillaTransformerConfig.model_type, VanillaTransformerConfig, exist_ok=True)
AutoModel.register(VanillaTransformerConfig, VanillaTransformerModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(VanillaTransformerConfig, VanillaTransformerForConditionalGeneration, exist_ok=True)
AutoModelForSequenceClassification.register(
    VanillaTransformerConfig, VanillaTransformerForSequenceClassification, exist_ok=True
)
AutoModelForTextEncoding.register(VanillaTransformerConfig, VanillaTransformerEncoderModel, exist_ok=True)
AutoModelForTokenClassification.register(
    VanillaTransformerConfig, VanillaTransformerForTokenClassification, exist_ok=True
)
AutoTokenizer.register(VanillaTransformerConfig, tokenizer_class=VanillaTransformerTokenizer, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(TASK, VanillaTranslationPipeline, AutoModelForSeq2SeqLM, type="text")


@classmethod
def _from_dict(cls: type[VanillaTransformerConfig], config_dict: dict, **kwargs) -> PreTrainedConfig:
    """As in transformers, without the folder's own copy of the pipeline that is registered above.

    `pipeline` would take that copy first, and refuse to run it without `trust_remote_code`.
    """
    config_dict = dict(config_dict)
    pipelines = config_dict.pop("custom_pipelines", {})
    if others := {task: entry for task, entry in pipelines.items() if task != TASK}:
        config_dict["custom_pipelines"] = others
    return super(VanillaTransformerConfig, cls).from_dict(config_dict, **kwargs)


# Here and not in the class, which travels: where this package is absent, the folder's copy is the only one.
VanillaTransformerConfig.from_dict = _from_dict  # pyright: ignore[reportAttributeAccessIssue]

__all__ = [
    "DependencyParserOutput",
    "Translation",
    "Translator",
    "VanillaTransformerConfig",
    "VanillaTransformerDecoder",
    "VanillaTransformerEncoder",
    "VanillaTransformerEncoderModel",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerForDependencyParsing",
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
    "VanillaTransformerHead",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
    "VanillaTranslationPipeline",
]
