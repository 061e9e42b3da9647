"""`vanilla-transformer draw-attention`: where a model looked while it wrote, as three pictures and a page."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class DrawAttentionArguments:
    model: str = field(metadata={"help": "folder of a trained model, or its name on the Hub"})
    text: str = field(metadata={"help": "the source text"})
    output_dir: Path = field(metadata={"help": "folder for the pictures and the page; made if need be"})
    target_lang: str | None = field(
        default=None, metadata={"help": "language to translate into, for example de: puts its tag in front"}
    )
    num_beams: int = field(default=4, metadata={"help": "beams of the search; 1 is greedy"})
    layer: int | None = field(
        default=None, metadata={"help": "draw only this layer, counted from 1; the page opens at it"}
    )


@command
def main(argv: list[str] | None = None) -> int:
    (arguments,) = parse_arguments(
        "draw-attention", "Draw where a model looked while it wrote.", DrawAttentionArguments, argv=argv
    )
    if not arguments.text.strip():
        raise ValueError("--text is empty: there is nothing to look at")
    if arguments.num_beams < 1:
        raise ValueError(f"--num-beams {arguments.num_beams}: at least 1 (which is greedy search)")

    # Only now, because this takes seconds, and the mistakes above need not wait for it.
    from transformers.utils.logging import disable_progress_bar

    from vanilla_transformer.modeling import Translator
    from vanilla_transformer.training.attention_pictures import draw_png, write_html
    from vanilla_transformer.training.explanation import KINDS, attention_maps

    disable_progress_bar()
    translator = Translator.from_pretrained(arguments.model, device="cpu")  # enough for one sentence
    model, tokenizer = translator.model, translator.tokenizer
    layers = max(model.config.encoder_layers, model.config.decoder_layers)
    if arguments.layer is not None and not 1 <= arguments.layer <= layers:
        raise ValueError(f"--layer {arguments.layer}: the model has the layers 1 to {layers}")

    maps = attention_maps(
        model, tokenizer, arguments.text, target_lang=arguments.target_lang, num_beams=arguments.num_beams
    )
    print(maps.output)
    if maps.is_cut:
        print(f"the output was cut after {len(maps.target_tokens)} tokens, without </s>", file=sys.stderr)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    chosen = None if arguments.layer is None else arguments.layer - 1
    for kind in KINDS:
        path = arguments.output_dir / f"{kind.replace(' ', '-')}.png"
        depth = len(maps.of_kind(kind)[0])
        if chosen is not None and chosen >= depth:
            print(f"{path}: not drawn, {kind} has {depth} layer(s)", file=sys.stderr)
            continue
        draw_png(maps, kind, path, None if chosen is None else [chosen])
        print(f"wrote {path}")
    page = arguments.output_dir / "attention.html"
    write_html(maps, page, chosen)
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
