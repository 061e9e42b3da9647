"""Publish a model: prove that it is what its card says, show what would go, and upload it as one commit."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class PushArguments:
    """The token comes from `hf auth login` or HF_TOKEN."""

    model: str = field(metadata={"help": "folder of the model: a run's, or one that save_pretrained wrote"})
    repo_id: str = field(metadata={"help": "where to: user/name on the Hub; made if it is not there"})
    license: str | None = field(
        default=None, metadata={"help": "as the Hub spells it, for example apache-2.0; if not given, that of the model's card"}
    )
    private: bool = field(default=False, metadata={"help": "only you, or your organisation, can see the repository"})
    branch: str | None = field(default=None, metadata={"help": "push to this branch and not to main; made if need be"})
    create_pr: bool = field(default=False, metadata={"help": "propose the upload as a pull request"})
    commit_message: str = field(default="Upload model", metadata={"help": "what the commit says"})
    test_file: list[str] = field(
        default_factory=list,
        metadata={"help": "data of the card's test scores, to measure them again; if not given, those in training.yaml"},
    )
    validation_file: list[str] = field(
        default_factory=list, metadata={"help": "data of the card's validation scores, likewise"}
    )
    sample: int = field(
        default=100, metadata={"help": "pairs, or rows, on which the folder is compared with itself without this package"}
    )
    allow_unverified: bool = field(
        default=False, metadata={"help": "publish scores whose data are not here; the card will say so"}
    )
    example: str | None = field(
        default=None,
        metadata={"help": "a text for the card's example and, where it writes, attention picture; if not given, one of the data"},
    )
    dry_run: bool = field(default=False, metadata={"help": "check everything, list what would go, and upload nothing"})


@command
def main(argv: list[str] | None = None) -> int:
    (arguments,) = parse_arguments("push-to-hub", __doc__ or "", PushArguments, argv=argv)
    if arguments.sample < 1:
        raise ValueError(f"sample={arguments.sample} must be at least 1")
    if arguments.create_pr and arguments.branch is not None:
        raise ValueError("--create-pr proposes a change to main: leave out --branch, or --create-pr")
    if not arguments.commit_message.strip():
        raise ValueError("--commit-message is empty")

    # Only now, because this takes seconds.
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from vanilla_transformer.training.hub_upload import Upload, check_branch, check_repo_id, hub_token
    from vanilla_transformer.training.publication import Publication

    check_repo_id(arguments.repo_id)
    if arguments.branch is not None:
        check_branch(arguments.branch)
    token = "" if arguments.dry_run else hub_token()
    disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()  # the reading of the data; like all others they are for people
    source = Path(arguments.model)
    data = {"test": arguments.test_file, "validation": arguments.validation_file}
    publication = Publication(source, data, arguments.sample, arguments.allow_unverified)
    with tempfile.TemporaryDirectory(prefix="vanilla-transformer-push-") as staged:
        folder = Path(staged)
        print(publication.stage(folder, arguments.repo_id, arguments.license, arguments.example))
        staged_files = sorted(folder.iterdir())
        print(f"{source} -> {arguments.repo_id}")
        for file in staged_files:
            print(f"  {file.stat().st_size:>13,}  {file.name}")
        rest = {file.name for file in source.iterdir()} - {file.name for file in staged_files}
        print(f"stays here: {', '.join(sorted(rest)) or 'nothing'}")
        if arguments.dry_run:
            print("dry run: nothing was uploaded, and the Hub has not yet been asked about the card and the licence's name")
            return 0
        upload = Upload(
            arguments.repo_id, token, arguments.private, arguments.branch, arguments.create_pr, arguments.commit_message
        )
        made = upload.push(folder)
    if made.pr_url:
        print(f"proposed as {made.pr_url}")
    else:
        print(f'done: {made.commit_url}\nload it with revision="{made.oid}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
