r"""`vanilla-transformer search-hyperparameters`: which flags of `finetune` are best for a task, on its validation part.

    vanilla-transformer search-hyperparameters --config search_tiny --tokenizer runs/vocabulary --train-file train.jsonl.gz \
        --validation-file validation.jsonl.gz --output-dir runs/search --trials 30 --search dropout=0.1,0.2,0.3

Every flag of finetune is one of all trials, unless it is searched. Afterwards:

    vanilla-transformer finetune --config runs/search/best.yaml --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vanilla_transformer.scripts.command_line import PROGRAM, command
from vanilla_transformer.scripts.finetune import prepare
from vanilla_transformer.scripts.flags import FlagParser, read_config
from vanilla_transformer.training.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    TaskArguments,
    TransferArguments,
)
from vanilla_transformer.training.search import Search
from vanilla_transformer.training.search_arguments import SearchArguments
from vanilla_transformer.training.search_space import Space, make_space, parse_space

PARTS = (TaskArguments, ModelArguments, DataArguments, TransferArguments, RunArguments)


@command
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = _SearchParser([SearchArguments, *PARTS], f"{PROGRAM} search-hyperparameters", _summary())
    flags, *arguments = parser.parse(words)
    results = Search(flags, arguments, parser.space, prepare).run()
    print(results.table())
    if isinstance(found := results.importances(), str):
        print(found)
    else:
        print("Importances: " + ", ".join(f"{name} {share:.2f}" for name, share in found.items()))
    print(f"Picture: {results.draw()}")
    if results.best() is None:
        raise ValueError("no trial came to its end; the reasons are above, the logs in the trials' folders")
    return 0


class _SearchParser(FlagParser):
    """Reads what is searched before all else: a searched flag has no value yet, and the others are checked beside one."""

    space: Space = {}

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        if {"-h", "--help"} & set(argv):
            return super().parse(argv)
        given: dict[str, str] = {}
        try:
            for file in self._config_files(argv):
                values = read_config(file)
                given |= {str(key).replace("-", "_"): file for key in values}
                if "search" in values:
                    self.space = {**self.space, **_space_of_file(values["search"], file)}
            self.space = {**self.space, **parse_space(self._search_flags(argv), PARTS)}
            if not self.space:
                raise ValueError("nothing is searched: give --search, or a --config with search:, such as search_tiny")
            for word in argv:
                if (action := self._option_string_actions.get(word.split("=")[0])) is not None:
                    given[action.dest] = "the command line"
            for name, values in self.space.items():
                if name in given:
                    raise ValueError(
                        f"{name} is both searched ({values}) and fixed, by {given[name]}; leave out one, or search one value: "
                        f"--search {name}=VALUE"
                    )
        except ValueError as error:
            self.error(str(error))
        self.set_defaults(**{name: values.extremes()[0] for name, values in self.space.items()})
        return super().parse(argv)

    def _search_flags(self, argv: Sequence[str]) -> list[str]:
        search = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        search.add_argument("--search", nargs="+", action="extend", default=[])
        search.error = self.error
        return search.parse_known_args(argv)[0].search

    def _checked(self, values: dict[str, Any], file: str) -> dict[str, Any]:
        return super()._checked({key: value for key, value in values.items() if key != "search"}, file)


def _space_of_file(given: Any, file: str) -> Space:
    try:
        return make_space(given, PARTS)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _summary() -> str:
    return "Search for the best flags of finetune (grid, random, TPE), judged on the validation part."


if __name__ == "__main__":
    sys.exit(main())
