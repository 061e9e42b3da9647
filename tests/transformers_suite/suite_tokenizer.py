"""transformers' common tests of tokenizers, on ours. See suite_models.py."""

from __future__ import annotations

import functools
import tempfile
import unittest
from unittest import mock

from tests.test_tokenization_common import TokenizerTesterMixin, input_string

import vanilla_transformer.modeling  # noqa: F401  (registers with the Auto classes)
from vanilla_transformer.tokenization import VanillaTransformerTokenizer, learn_vocabulary


class VanillaTransformerTokenizerTest(TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = VanillaTransformerTokenizer
    rust_tokenizer_class = VanillaTransformerTokenizer
    test_slow_tokenizer = False
    test_sentencepiece = False

    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp()
        words = "This is a test of the tokenizer lower newer I was born in false Hello there low new er".split()
        learn_vocabulary([*words, *input_string.splitlines()] * 20, 390).save_pretrained(folder)
        cls.from_pretrained_id = [folder]
        super().setUpClass()

    def test_tokenize_special_tokens(self):
        # To ours, special tokens that stand in a text are text unless asked otherwise: this test asks otherwise.
        with mock.patch.object(
            type(self), "get_tokenizer", functools.partial(self.get_tokenizer, split_special_tokens=False)
        ):
            super().test_tokenize_special_tokens()
