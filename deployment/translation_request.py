"""What a request to the service may say, and the one line that answers nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TranslationRequest(BaseModel):
    """The body of POST /translate. What is not given is as in `Translator.stream`, the paper's decoding (section 6.1)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    text: str | list[str] = Field(description="a text, or several")
    target_lang: str | None = Field(None, description="code of the language to translate into, if the model has several")
    target_prefix: str | None = Field(None, description="what every translation begins with")
    num_beams: int | None = Field(None, ge=1, description="width of the beam; 1 is greedy search")
    n_best: int | None = Field(None, ge=1, description="translations of each text; at most num_beams unless sampling")
    length_penalty: float | None = Field(None, description="alpha; a larger one gives longer translations")
    length_penalty_kind: Literal["paper", "hf"] | None = Field(None, description="((5+n)/6)^alpha or n^alpha")
    max_new_tokens_beyond_source: int | None = Field(None, ge=0, description="longest output, over the source's length")
    min_new_tokens: int | None = Field(None, ge=0, description="shortest output, in tokens")
    max_length_ratio: float | None = Field(None, gt=0, description="longest output, in times the source's length")
    coverage_penalty: float | None = Field(None, ge=0, description="beta of Wu et al. (2016): cover the whole source")
    banned: list[str] | None = Field(None, description="words and phrases that no translation holds")
    required: list[str] | None = Field(None, description="words and phrases that every translation holds")
    no_repeat_ngram_size: int | None = Field(None, ge=0, description="no n tokens in a row come twice")
    do_sample: bool | None = Field(None, description="draw from the model's distribution")
    temperature: float | None = Field(None, gt=0, description="of the distribution; sampling only")
    top_k: int | None = Field(None, ge=0, description="draw from the k likeliest tokens; 0: from all")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from the likeliest tokens of this probability")
    seed: int | None = Field(None, ge=0, description="the same seed gives the same samples")

    @field_validator("text", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        texts = value if isinstance(value, list) else [value]
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                what = type(text).__name__
                raise ValueError(f"must be a text or a list of texts (number {number} is of the kind {what})")
        return value

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def options(self) -> dict[str, Any]:
        """What `Translator.translate` is asked for besides its defaults."""
        return self.model_dump(exclude={"text"}, exclude_none=True)

    def too_large(self, max_characters: int) -> str | None:
        """A line that says so, or None. An empty text counts as one character."""
        others = [*(self.banned or []), *(self.required or []), self.target_prefix or ""]
        for name, texts in (("text", self.texts), ("banned, required and target_prefix", others)):
            characters = sum(max(1, len(text)) for text in texts)
            if characters > max_characters:
                return f"{name}: {characters:,} characters are more than the {max_characters:,} of one request; send several"
        return None

    def contradiction(self, max_beams: int) -> str | None:
        """A line for what no single field shows, or None. Hypotheses are what costs memory, so they have a bound."""
        for name in ("num_beams", "n_best"):
            value = getattr(self, name)
            if value is not None and value > max_beams:
                return f"{name}={value} is more than this service allows ({max_beams})"
        for name in ("temperature", "top_k", "top_p", "seed"):
            if getattr(self, name) is not None and not self.do_sample:
                return f"{name} is for sampling: add do_sample=true, or leave it out"
        return None


def refusal(errors: Sequence[Any]) -> str:
    """pydantic's errors -> one line: "num_beams=0: should be greater than or equal to 1; ..."."""
    return "; ".join(dict.fromkeys(map(_refusal, errors)))


def _refusal(error: Any) -> str:
    if error["type"] == "json_invalid":
        return f"the body is no JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    place = [part for part in error["loc"] if part != "body"]
    name = str(place[0]) if place else ""
    if error["type"] == "extra_forbidden":
        return f"no field is called {_shown(name)}; there are: {', '.join(TranslationRequest.model_fields)}"
    if error["type"] == "missing" and name:
        return f"{name}: is missing"
    if not name:
        return 'the body must be a JSON object such as {"text": "A man sleeps."}, sent as application/json'
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    value = f"={given!r}" if isinstance(given, int | float) else ""
    return f"{name}{value}: {message}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")
