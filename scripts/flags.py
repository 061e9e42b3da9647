"""A command's flags: documented dataclasses -> `--some-flag value`, `--help` and `--config FILE.yaml`.

Built on transformers' HfArgumentParser, which makes one flag of each field. Added here: YAML files whose
values the command line overrides, `--flag` / `--no-flag` for every yes-or-no field, numbers that may be a word
(`int | Literal["auto"]`), and answers that name the nearest flag.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Sequence
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn, Union

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool


class FlagParser(HfArgumentParser):
    """Parses into dataclasses whose fields carry `metadata={"help": ...}`. Bad use: one line and exit(2)."""

    def __init__(self, dataclass_types: Sequence[Any], prog: str, description: str):
        # No abbreviations: `--max` would change its meaning with the next flag that begins so.
        super().__init__(
            dataclass_types, prog=prog, description=description, formatter_class=_Help, allow_abbrev=False
        )
        self.hints: dict[str, Any] = {}
        for dataclass in dataclass_types:
            self.hints.update(typing.get_type_hints(dataclass))
        self.add_argument(
            "--config",
            action="append",
            metavar="FILE.yaml",
            help="take the values of the flags from this file, or from a shipped recipe by its name; flags "
            "given here override it; of several files the later ones win; "
            f"recipes: {', '.join(recipe_names()) or 'none'}",
        )
        for action in self._actions:
            # Underscores are understood (argparse knows every spelling by now), but only dashes are shown.
            action.option_strings = [option for option in action.option_strings if "_" not in option]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """The dataclass instances, in the order of their types. Their own ValueErrors go through."""
        for name in self._config_files(argv):
            try:
                values = self._checked(read_config(name), name)
            except ValueError as error:
                self.error(str(error))
            self.set_defaults(**values)
            for action in self._actions:
                action.required = action.required and action.dest not in values
        # look_for_args_file would read flags from a file beside the program, unasked.
        *outputs, _, unknown = self.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            self._refuse(unknown[0])
        return tuple(outputs)

    def _config_files(self, argv: Sequence[str]) -> list[str]:
        config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        config.add_argument("--config", action="append", default=[])
        config.error = self.error
        return config.parse_known_args(argv)[0].config

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}: every value follows its flag")
        flag = word.split("=")[0]
        shown = [option for action in self._actions for option in action.option_strings]
        self.error(f"no flag is called {flag}{_nearest(flag.replace('_', '-'), shown)}")

    def _checked(self, values: dict[str, Any], file: str) -> dict[str, Any]:
        fields = {action.dest for action in self._actions} & self.hints.keys()
        checked: dict[str, Any] = {}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in fields:
                raise ValueError(f"{file}: no field is called {key!r}{_nearest(name, sorted(fields))}")
            if name in checked:
                raise ValueError(f"{file}: {name} is given twice, once with dashes and once with underscores")
            try:
                checked[name] = _converted(value, self.hints[name])
            except ValueError as error:
                raise ValueError(f"{file}: {name} must be {error}, and is {value!r}") from None
        return checked

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        assert field.metadata.get("help"), f"the field {field.name} needs metadata={{'help': ...}}"
        if int in typing.get_args(field.type) and (words := _words(field.type)):
            parser.add_argument(
                *dict.fromkeys([f"--{field.name.replace('_', '-')}", f"--{field.name}"]),
                type=functools.partial(_number_or_word, words=words),
                default=field.default,
                help=field.metadata["help"],
            )
            return
        if field.type is not bool and field.type != bool | None:
            HfArgumentParser._parse_dataclass_field(parser, field)
            return
        # HfArgumentParser makes a --no-flag only where the default is True, and repeats the help text for it.
        dashed = field.name.replace("_", "-")
        options = dict.fromkeys([f"--{dashed}", f"--{field.name}", f"--no-{dashed}", f"--no_{field.name}"])
        default = False if field.default is dataclasses.MISSING else field.default
        parser.add_argument(
            *options, action=_YesOrNo, dest=field.name, default=default, help=field.metadata["help"]
        )


def _words(hint: Any) -> list[str]:
    """Those that a union with Literal allows."""
    literals = [part for part in typing.get_args(hint) if typing.get_origin(part) is Literal]
    return [word for literal in literals for word in typing.get_args(literal)]


def _number_or_word(text: str, words: Sequence[str]) -> int | str:
    try:
        return text if text in words else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or {' or '.join(words)}, and is {text!r}") from None


class _YesOrNo(argparse.Action):
    """`--flag`, `--no-flag`, and `--flag false`, which those who write shell scripts need."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, nargs="?", type=string_to_bool, metavar="yes|no", **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        negated = str(option_string).startswith(("--no-", "--no_")) and not self.dest.startswith("no_")
        if negated and values is not None:
            parser.error(f"{option_string} takes no value")
        setattr(namespace, self.dest, not negated if values is None else values)


class _Help(argparse.HelpFormatter):
    """Every flag with its default. Help texts are plain text, in which a % is a percent sign."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _YesOrNo):
            return ", ".join(action.option_strings)  # without "[yes|no]" behind each
        return super()._format_action_invocation(action)

    def _expand_help(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.dest in ("help", "config"):
            return text
        if action.required:
            return f"{text} (required)"
        match action.default:
            case None:
                default = "not set"
            case True:
                default = "yes"
            case False:
                default = "no"
            case "" | []:
                default = "empty"
            case list() as items:
                default = " ".join(map(str, items))
            case Enum() as member:
                default = member.value
            case other:
                default = other
        return f"{text} (default: {default})"


def recipe_names() -> list[str]:
    """The recipes that travel with the package: the names that `--config` understands besides a path."""
    folder = resources.files("vanilla_transformer.scripts") / "recipes"
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_config(name: str) -> dict[str, Any]:
    """The fields of a YAML file or of a shipped recipe. ValueError says what is wrong with it, and where."""
    path = Path(name)
    if not path.is_file() and name in recipe_names():
        path = Path(str(resources.files("vanilla_transformer.scripts") / "recipes" / f"{name}.yaml"))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        near = _nearest(name, recipe_names())
        raise ValueError(f"{name}: no such file, and no shipped recipe is called so{near}") from None
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name}: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{name}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{name}: must hold lines such as `max_steps: 1000`, and holds one {type(values).__name__}"
        )
    return values


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is given twice", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


def _converted(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, if that needs no guess; otherwise ValueError with the words for `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        wanted = [argument for argument in arguments if argument is not type(None)]
        problems = []
        for argument in wanted:
            try:
                return _converted(value, argument)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError(" or ".join(problems))
    if origin is Literal:
        if any(value is choice or (value == choice and type(value) is type(choice)) for choice in arguments):
            return value
        raise ValueError(f"one of {', '.join(map(str, arguments))}")
    if origin is list:
        # A single file may stand without brackets, as it does on the command line.
        return [_converted(item, arguments[0]) for item in (value if isinstance(value, list) else [value])]
    if isinstance(hint, type) and issubclass(hint, Enum):
        if value in [member.value for member in hint]:
            return value
        raise ValueError(f"one of {', '.join(str(member.value) for member in hint)}")
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError("a whole number")
    if hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)  # a string too: YAML 1.1 reads 5e-4 as one, because it has no point
            except ValueError:
                pass
        raise ValueError("a number")
    if hint in (str, Path):
        if isinstance(value, str):
            return hint(value)
        raise ValueError("text (in quotes, where YAML would read something else)")
    return value


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
