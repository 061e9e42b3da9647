"""Text to ids and back: the tokenizer, and the learner of its vocabulary.

>>> from vanilla_transformer.tokenization import learn_vocabulary
>>> tokenizer = learn_vocabulary(lines, vocab_size=10_000, languages=["de", "ko"])
>>> tokenizer.save_pretrained("my-tokenizer")
"""

from vanilla_transformer.tokenization.learn_vocabulary import learn_vocabulary
from vanilla_transformer.tokenization.tokenization_vanilla_transformer import VanillaTransformerTokenizer

__all__ = ["VanillaTransformerTokenizer", "learn_vocabulary"]

# From now on save_pretrained copies the Hub file beside tokenizer.json and writes auto_map, so that the
# folder loads with trust_remote_code=True where this package is not installed.
VanillaTransformerTokenizer.register_for_auto_class("AutoTokenizer")

# Importing either room registers everything with the Auto classes; modeling/__init__.py does it. It imports
# from this room, so it comes last.
import vanilla_transformer.modeling  # noqa: E402, F401
