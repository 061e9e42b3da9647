"""What a search may change: flags of a run, each with the values that it may take, written as in

learning_rate=1e-4..1e-2:log    dropout=0.1,0.2,0.3    encoder_layers=1..6    warmup_steps=1000..8000:step=1000
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from vanilla_transformer.modeling.configuration_vanilla_transformer import VanillaTransformerConfig

# What says where a run is written and on what it is judged: with other values of these, scores could not be compared.
FIXED = (
    *("output_dir", "resume", "override", "seed", "seeds", "log_steps", "eval_steps", "save_steps", "keep_checkpoints"),
    *("task", "best_metric", "eval_num_beams", "test_num_beams", "dataset_name", "dataset_config"),
    *("source_lang", "target_lang", "max_source_length", "max_target_length"),
    *("label_field", "problem", "unknown_labels", "token_field", "tag_field", "dialog_field"),
)
# Numbers that the model's configuration alone checks, whatever its others are.
_OF_MODEL = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "label_smoothing")
_OPTIONS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """The values of one flag: `choices`, or if there are none, all from `low` to `high`, both included.

    `log`: drawn evenly in the logarithm. `step`: only low, low + step, ...; whole numbers have one of 1.
    """

    choices: tuple[Any, ...] = ()
    low: Any = None
    high: Any = None
    log: bool = False
    step: Any = None

    def __str__(self) -> str:
        if self.choices:
            return ",".join(map(str, self.choices))
        step = f":step={self.step}" if self.step is not None else ""
        return f"{self.low}..{self.high}{':log' if self.log else ''}{step}"

    def extremes(self) -> list[Any]:
        """The values by which it can be seen whether the flag allows all of them."""
        return list(self.choices) or [self.low, self.high]

    def points(self) -> list[Any] | None:
        """All values, or None if they cannot be counted."""
        if self.choices:
            return list(self.choices)
        step = self.step or (1 if isinstance(self.low, int) and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9)  # 0.1 + 0.1 + 0.1 is more than 0.3
        found = [self.low + number * step for number in range(count + 1)]
        return found if isinstance(self.low, int) else [round(value, 12) for value in found]

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        high = (self.points() or [self.high])[-1]  # what no step reaches is no value
        if isinstance(self.low, int):
            return distributions.IntDistribution(self.low, high, log=self.log, step=self.step or 1)
        return distributions.FloatDistribution(self.low, high, log=self.log, step=self.step)


Space = dict[str, Range]


def parse_space(texts: Sequence[str], parts: Sequence[type]) -> Space:
    """`flag=values` of the command line; of two about one flag the later one counts, as everywhere there."""
    space: Space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(
                f"search {text!r}: write flag=values, for example learning_rate=1e-4..1e-2:log or dropout=0.1,0.2"
            )
        space |= make_space({name: values}, parts)
    return space


def make_space(given: Any, parts: Sequence[type]) -> Space:
    """What stands under `search:` in a file.

    Args:
        given: flag -> {low, high, log, step}, or a list of values, or text as on the command line.
        parts: the dataclasses that the flags come from.

    Raises:
        ValueError: no such flag, or one that cannot be searched; values that are not of its type; none at all.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            "search must hold lines such as `learning_rate: {low: 1e-4, high: 1e-2, log: true}`, and holds none"
        )
    hints = {f.name: typing.get_type_hints(part)[f.name] for part in parts for f in fields(part)}
    space: Space = {}
    for key, values in given.items():
        name = str(key).strip().lstrip("-").replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            raise ValueError(f"search: no flag is called {name}{f'; did you mean {near[0]}?' if near else ''}")
        if name in FIXED:
            raise ValueError(
                f"search: {name} says where a run is written or how it is judged, not how it learns; leave it out"
            )
        if typing.get_origin(hints[name]) is list:
            raise ValueError(f"search: {name} takes several values at once, and cannot be searched; leave it out")
        if name in space:
            raise ValueError(f"search: {name} is given twice, once with dashes and once with underscores")
        space[name] = _range(name, values, hints[name])
    return space


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination of values, the last flag's changing fastest. ValueError if a range has no end of them."""
    for name, values in space.items():
        if values.points() is None:
            raise ValueError(
                f"search: {name}={values} has no end of values, and sampler=grid tries all: list them, or add :step="
            )
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(r.points() or [] for r in space.values()))
    ]


def with_values(arguments: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
    """The dataclasses of flags with other values, which they check anew. Names that they have not are an error of ours."""
    own = [{f.name for f in fields(part)} for part in arguments]
    assert set(values) <= set().union(*own), set(values).difference(*own)
    return [
        type(part)(**(vars(part) | {name: values[name] for name in names & values.keys()}))
        for part, names in zip(arguments, own, strict=True)
    ]


def check_values(arguments: Sequence[Any], space: Space) -> None:
    """ValueError if a flag does not allow a value, the others having the first of theirs."""
    first = {name: values.extremes()[0] for name, values in space.items()}
    for name, values in space.items():
        for value in values.extremes():
            try:
                with_values(arguments, first | {name: value})
                if name in _OF_MODEL and value is not None:
                    VanillaTransformerConfig(**{name: value})
            except ValueError as error:
                raise ValueError(f"search: {name}={values}: {error}") from None


def _range(name: str, values: Any, hint: Any) -> Range:
    kind = _kind(hint)
    if isinstance(values, str) and kind in (int, float) and ".." in values:
        values = _options(name, values)
    if not isinstance(values, Mapping):
        items = values.split(",") if isinstance(values, str) else values if isinstance(values, list) else [values]
        choices = tuple(_value(name, item, hint) for item in items)
        if not choices:
            raise ValueError(f"search: {name} has no values; give one or several")
        if twice := next((choice for choice in choices if choices.count(choice) > 1), None):
            raise ValueError(f"search: {name} names {twice} twice; leave one out")
        return Range(choices)
    if kind not in (int, float):
        raise ValueError(f"search: {name} is no number, so it has no low and high: list its values")
    if unknown := [str(key) for key in values if key not in _OPTIONS]:
        raise ValueError(f"search: {name} has {', '.join(unknown)}; a range has {', '.join(_OPTIONS)}")
    if missing := [key for key in ("low", "high") if values.get(key) is None]:
        raise ValueError(f"search: {name} has no {' and no '.join(missing)}; give both ends of the range")
    low, high = (_value(name, values[key], kind) for key in ("low", "high"))
    step = None if values.get("step") is None else _value(name, values["step"], kind)
    log = _value(f"log of {name}", values.get("log", False), bool)
    found = Range(low=low, high=high, log=log, step=step)
    if not low < high:
        raise ValueError(f"search: {name}={found} is empty: low must be less than high (for one value: {name}={high})")
    if log and step is not None:
        raise ValueError(f"search: {name}={found} has a log and a step: give one of them")
    if log and low <= 0:
        raise ValueError(f"search: {name}={found}: logarithms need a low that is greater than 0")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"search: {name}={found}: step must be greater than 0 and at most high - low = {high - low}")
    return found


def _options(name: str, text: str) -> dict[str, Any]:
    """Of "1..9:step=2" low, high and step."""
    match = re.fullmatch(r"([^:]*)\.\.([^:]*)((?::[^:]*)*)", text)
    ends: dict[str, Any] = {"low": match[1] or None, "high": match[2] or None} if match else {}
    for option in match[3].split(":")[1:] if match else ["?"]:
        key, equals, value = option.partition("=")
        if not (key == "step" and value) and not (key == "log" and not equals):
            raise ValueError(f"search: {name}={text}: write low..high, low..high:log or low..high:step=number")
        ends[key] = value or True
    return ends


def _kind(hint: Any) -> Any:
    """The type without its None."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    return next(argument for argument in typing.get_args(hint) if argument is not type(None))


def _value(name: str, value: Any, hint: Any) -> Any:
    """`value`, of YAML or of the command line, as the flag has it."""
    kind, text = _kind(hint), str(value).strip()
    if typing.get_origin(kind) is Literal and text in typing.get_args(kind):
        return text
    if kind is not hint and (value is None or text.lower() == "none"):
        return None
    if kind is bool and text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    if kind is str and isinstance(value, str) and text:
        return text
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    words: dict[Any, str] = {bool: "yes or no", str: "text", int: "a whole number", float: "a number"}
    wanted = words[kind] if kind in words else f"one of {', '.join(typing.get_args(kind))}"
    raise ValueError(f"search: {name} must be {wanted}, and {value!r} is not")
