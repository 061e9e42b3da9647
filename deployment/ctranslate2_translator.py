"""Text in, text out, with CTranslate2 beneath: as `modeling/translator.py`, for machines that shall only translate.

>>> translator = load_ctranslate2_translator("runs/en-de", compute_type="int8")  # exported once, then kept
>>> translator(["A man sleeps.", "Two dogs play."])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine, check_options, cpu_type
from vanilla_transformer.deployment.ctranslate2_export import PRECISIONS, is_export, read_description
from vanilla_transformer.deployment.ctranslate2_kept_export import kept_export
from vanilla_transformer.deployment.ctranslate2_specification import import_ctranslate2, vocabulary_of
from vanilla_transformer.modeling import Translation, Translator, VanillaTransformerConfig
from vanilla_transformer.modeling.translator import Search
from vanilla_transformer.modeling.translator_options import SEARCH_OPTIONS
from vanilla_transformer.tokenization import VanillaTransformerTokenizer

_OTHERS = {"target_lang", "target_prefix", "max_tokens", "batch_size", "chunk_size", "split_long"}


class CTranslate2Translator(Translator):
    """An exported model and its tokenizer. Everything that is not said here is as in `Translator`.

    Args:
        engine: the model in CTranslate2.
        tokenizer: the one it was exported with.

    Raises:
        ValueError: the tokenizer is another one.
    """

    def __init__(self, engine: CTranslate2Engine, tokenizer: VanillaTransformerTokenizer):
        super().__init__(engine, tokenizer)
        expected = vocabulary_of(tokenizer, engine.config.vocab_size)
        theirs = engine.vocabulary
        if theirs != expected:
            pairs = enumerate(zip(theirs, expected, strict=False))
            where = next((i for i, (a, b) in pairs if a != b), min(len(theirs), len(expected)))
            found, wanted = (repr(words[where]) if where < len(words) else "nothing" for words in (theirs, expected))
            raise ValueError(
                f"vocabulary: token {where} is {found} in the CTranslate2 model and {wanted} in the tokenizer; "
                "export the model anew"
            )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a folder has no revision and no code
        cls, folder: str | Path, device: str | None = None, compute_type: str = "default", threads: int = 0
    ) -> CTranslate2Translator:
        """Load a folder that `export-ctranslate2` wrote.

        Args:
            folder: the export.
            device, compute_type, threads: as in `CTranslate2Engine`.

        Raises:
            ValueError: no export, or damaged, or of another vocabulary; CTranslate2 or the device is not there.
        """
        path = Path(folder)
        described = read_description(path)
        config = VanillaTransformerConfig.from_dict(described["model_config"])
        if compute_type == "default" and (device is None or str(device) == "cpu"):
            # CTranslate2 would choose the same, and warn.
            has_gpu = device is None and import_ctranslate2().get_cuda_device_count()
            compute_type = "default" if has_gpu else cpu_type(described["quantization"])
        try:
            tokenizer = VanillaTransformerTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: no tokenizer could be loaded: {str(error).splitlines()[0]}") from error
        return cls(CTranslate2Engine(path, config, device, compute_type, threads), tokenizer)

    def stream(self, texts: Iterable[str], **options: Any) -> Iterator[Translation]:
        """As `Translator.stream`, with the options that CTranslate2 has; `early_stopping` is True if not given.

        Raises:
            ValueError: also for an option that it does not have, by its name.
        """
        if unknown := sorted(options.keys() - SEARCH_OPTIONS - _OTHERS):
            raise ValueError(f"{unknown[0]} is not for CTranslate2; use the engine vanilla")
        options = {"early_stopping": True} | options
        check_options({name: value for name, value in options.items() if value != []})  # an empty list of phrases
        return super().stream(texts, **options)

    def _searcher(self, how: Any) -> Search:
        return lambda sources, prefixes, numbers: self.model.search(sources, how.search, prefixes)

    def _log_probs(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        return self.model.score(sources, targets)


def load_ctranslate2_translator(
    model: str, device: str | None = None, compute_type: str = "default", threads: int = 0
) -> CTranslate2Translator:
    """A translator of any model: an export is loaded; another is exported first, and kept (`ctranslate2_kept_export.py`).

    Args:
        model: an export, the folder of a trained model, or its name on the Hub.
        device, compute_type, threads: as in `CTranslate2Engine`; a model is exported in the precision of `compute_type`,
            float32 if that is "default" or "auto".
    """
    import_ctranslate2()
    if compute_type not in (*PRECISIONS, "default", "auto"):
        raise ValueError(f"compute_type={compute_type!r} must be default, auto, {', '.join(PRECISIONS)}")
    if not is_export(model):
        precision = compute_type if compute_type in PRECISIONS else "float32"
        exported = kept_export(model, precision)
        compute_type = "auto" if compute_type == "auto" else "default"
        return CTranslate2Translator.from_pretrained(exported, device, compute_type, threads)
    return CTranslate2Translator.from_pretrained(model, device, compute_type, threads)
