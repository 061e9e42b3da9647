"""transformers' common tests of models, on ours, and beside them on MarianMT and BART of the same sizes.

Not collected by `make test`: run.py copies this file into a copy of transformers' own tests and runs it there.
"""

from __future__ import annotations

import unittest
from unittest.mock import patch

from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_memory_cleanup_mixin import MemoryCleanupTestCase
from tests.test_modeling_common import ModelTesterMixin, ids_tensor
from tests.test_training_mixin import TrainingTesterMixin
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    MarianConfig,
    MarianModel,
    MarianMTModel,
)
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
)

# The tests ask these tables of names what kind a class is, and skip what they do not find there.
modeling_auto.MODEL_MAPPING_NAMES["vanilla_transformer"] = "VanillaTransformerModel"
modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["vanilla_transformer"] = (
    "VanillaTransformerForConditionalGeneration"
)
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["vanilla_transformer"] = (
    "VanillaTransformerForSequenceClassification"
)
modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES["vanilla_transformer"] = (
    "VanillaTransformerForTokenClassification"
)

SIZES = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_position_embeddings": 64,
    "dropout": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
OURS = {"num_attention_heads": 4, "d_ff": 37, "label_smoothing": 0.0}  # theirs smooth nothing
THEIRS = {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
}


class Seq2SeqTester:
    """Sizes and inputs of one kind of model, in the words of transformers' tests."""

    batch_size = 13
    seq_length = decoder_seq_length = encoder_seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent, config_class, sizes, head):
        self.parent = parent
        self.config_class = config_class
        self.sizes = sizes
        self.causal_lm_class = head  # what the training test trains

    def get_config(self):
        return self.config_class(**{**SIZES, **self.sizes})

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.seq_length)
        source, target = (ids_tensor(shape, SIZES["vocab_size"]).clamp(min=3).to(torch_device) for _ in range(2))
        source[:, -1] = SIZES["eos_token_id"]
        return self.get_config(), {
            "input_ids": source,
            "attention_mask": source.ne(SIZES["pad_token_id"]),
            "decoder_input_ids": target,
            "decoder_attention_mask": target.ne(SIZES["pad_token_id"]),
        }


class Seq2SeqTests(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """What is told to all of transformers' mixins about all three kinds."""

    is_encoder_decoder = True
    run_under_no_grad = False  # most of these tests train
    config_class: type
    sizes: dict[str, object]
    _tester: Seq2SeqTester | None = None

    # Not set in setUp, whose order among the mixins is nobody's promise.
    @property
    def model_tester(self) -> Seq2SeqTester:
        if self._tester is None:
            self._tester = Seq2SeqTester(self, self.config_class, self.sizes, self.all_model_classes[-1])
        return self._tester

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if "Classification" in model_class.__name__ and self.config_class is VanillaTransformerConfig:
            # What our heads' decoder reads is made from the text, always.
            inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        return inputs

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        batch = super()._create_text_training_batch(
            batch_size, seq_length, vocab_size
        )  # 1 2 3 ..., and 1 is what decoders start with
        return {"input_ids": batch["input_ids"], "labels": batch["labels"][:, 1:].contiguous()}

    def _get_trainable_model_class(self):
        # The training test at last prompts a decoder with the first token. The prompt of these models is the source.
        head = self.all_model_classes[-1]
        sizes = 1, self.training_overfit_seq_length, SIZES["vocab_size"]
        source = self._create_text_training_batch(*sizes)["input_ids"]

        def generate(model, first_token, **options):
            return head.generate(model, source, **options)

        return type(head.__name__, (head,), {"generate": generate})

    def test_inputs_embeds(self):
        # It gives the decoder embeddings of its own, which no classifier takes (BART's tests leave it out as well).
        classes = tuple(one for one in self.all_model_classes if "Classification" not in one.__name__)
        with patch.object(self, "all_model_classes", classes):
            super().test_inputs_embeds()

    def test_config(self):
        ConfigTester(self, config_class=self.config_class, **SIZES).run_common_tests()


class VanillaTransformerTest(Seq2SeqTests, MemoryCleanupTestCase, unittest.TestCase):
    config_class = VanillaTransformerConfig
    sizes = OURS
    # The last is the one that the training test trains.
    all_model_classes = (
        VanillaTransformerModel,
        VanillaTransformerForSequenceClassification,
        VanillaTransformerForTokenClassification,
        VanillaTransformerForConditionalGeneration,
    )
    # `_init_weights` fills everything, whatever year the file says.
    test_can_init_all_missing_weights_before_2023 = True


class MarianTest(Seq2SeqTests, MemoryCleanupTestCase, unittest.TestCase):
    config_class = MarianConfig
    sizes = THEIRS
    all_model_classes = (MarianModel, MarianMTModel)


class BartTest(Seq2SeqTests, MemoryCleanupTestCase, unittest.TestCase):
    config_class = BartConfig
    sizes = THEIRS
    all_model_classes = (BartModel, BartForConditionalGeneration)
