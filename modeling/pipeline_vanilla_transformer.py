"""The translation pipeline that transformers 5 removed, under a name that every version takes.

>>> from transformers import pipeline
>>> translate = pipeline("seq2seq-translation", model="my-model", trust_remote_code=True)
>>> translate("Hello, world.", target_lang="de")
[{'translation_text': 'Hallo, Welt.'}]

Where our package is installed and imported, `trust_remote_code` is not needed.
"""

from collections.abc import Iterable, Iterator, Mapping

from transformers import Pipeline

from .translator import Translation, Translator

TASK = "seq2seq-translation"  # "translation" itself is refused by transformers 5.23, whoever registers it

# What config.json says, for `pipeline` to find the class below in the model's folder.
CUSTOM_PIPELINES = {
    TASK: {
        "impl": "pipeline_vanilla_transformer.VanillaTranslationPipeline",
        "pt": ["AutoModelForSeq2SeqLM"],
        "type": "text",
    }
}

_NAMES_IN_TRANSFORMERS_4 = {"num_return_sequences": "n_best", "tgt_lang": "target_lang"}


class VanillaTranslationPipeline(Pipeline):
    """`Translator` in the form of a pipeline, which returns what the one of transformers 4 returned.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`; it is moved to the pipeline's device.
        tokenizer: the one it was trained with.
        options: those of transformers' pipelines, as `device` and `dtype`; all others are for the calls.

    Raises:
        ValueError: another model or another tokenizer.
    """

    _load_tokenizer = True
    _load_processor = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __init__(self, model, tokenizer=None, **options):
        if model.config.model_type != "vanilla_transformer" or not model.can_generate():
            raise ValueError(
                f"{TASK}: expected a VanillaTransformerForConditionalGeneration, found a {type(model).__name__}"
            )
        if tokenizer is None:
            raise ValueError(f"{TASK}: no tokenizer; give the one that the model was trained with (tokenizer=...)")
        super().__init__(model, tokenizer, **options)
        self.translator = Translator(model, tokenizer)

    def __call__(self, inputs: str | Iterable[str], **options) -> list | Iterator[list[dict]]:
        """Translate.

        Args:
            inputs: a text; a list or tuple of texts; or texts that are read as they are needed: a generator, a column
                of a data set.
            options: as in `Translator.stream`: `target_lang`, `num_beams`, `n_best`, `batch_size` and so on. A text
                that is too long is translated sentence by sentence, unless `split_long=False` (see `sentences.py`).
                `tgt_lang` and `num_return_sequences` are understood, too.

        Returns:
            For a text [{"translation_text": ...}], or `n_best` of these, best first, which then have the "score" and
            the "normalized_score" of `Translation`. For a list a list of these lists, without the inner brackets where
            `n_best` is 1. For other texts an iterator of lists.

        Raises:
            ValueError: no text, or whatever `Translator.stream` refuses.
        """
        _, asked, _ = self._sanitize_parameters(**options)
        texts = self.preprocess(inputs)
        translations = self._forward(
            texts, **{"split_long": True, "batch_size": self._batch_size, **self._forward_params, **asked}
        )
        results = map(self.postprocess, translations)
        if isinstance(inputs, str):
            return next(results)
        if isinstance(inputs, list | tuple):
            return [result[0] if len(result) == 1 else result for result in results]
        return results

    # The steps of a pipeline. Those of transformers are about one text, or a batch cut without regard to length; these
    # are about all texts, because `Translator` sorts them.

    def _sanitize_parameters(self, **options) -> tuple[dict, dict, dict]:
        for old, new in _NAMES_IN_TRANSFORMERS_4.items():
            if old in options and new in options:
                raise ValueError(f"{TASK}: {old} and {new} are one option: give one of them")
        return {}, {_NAMES_IN_TRANSFORMERS_4.get(name, name): value for name, value in options.items()}, {}

    def preprocess(self, inputs: str | Iterable[str]) -> Iterator[str]:
        if isinstance(inputs, Mapping | bytes) or not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")):
            raise ValueError(f"{TASK}: expected a text or several, found {type(inputs).__name__}")
        return iter([inputs] if isinstance(inputs, str) else inputs)

    def _forward(self, texts: Iterator[str], **options) -> Iterator[Translation]:
        return self.translator.stream(texts, **options)

    def postprocess(self, translation: Translation) -> list[dict]:
        if len(translation.n_best) == 1:
            return [{"translation_text": translation.text}]
        return [
            {"translation_text": one.text, "score": one.score, "normalized_score": one.normalized_score}
            for one in translation.n_best
        ]


__all__ = ["CUSTOM_PIPELINES", "TASK", "VanillaTranslationPipeline"]
