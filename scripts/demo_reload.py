"""The demo's sixth chapter: loads a finished model where this package does not exist, and translates with it.

    python -I demo_reload.py MODEL_DIR LINES.json ANSWERS.json

This is what a stranger needs: transformers, torch, and the model's folder. The demo runs it in a process of
its own. `vanilla_transformer` is barred from that process, so all code of the model comes out of the folder.
"""

import importlib.abc
import json
import sys
import time
from pathlib import Path

BATCH_SIZE, MOST_NEW_TOKENS = 100, 100


class Barred(importlib.abc.MetaPathFinder):
    """Makes `import vanilla_transformer` fail, as on a machine on which it was never installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "vanilla_transformer":
            raise ModuleNotFoundError(f"{fullname} is barred: the model must load without it", name=fullname)
        return None


def main(model_dir: str, lines_file: str, answers_file: str) -> int:
    sys.meta_path.insert(0, Barred())
    # Imported here: it takes seconds, and must come after the bar.
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_dir, trust_remote_code=True).eval()
    print(f"loaded {type(model).__module__}.{type(model).__name__} in {time.perf_counter() - started:.1f} s")

    lines = json.loads(Path(lines_file).read_text(encoding="utf-8"))
    answers: list[str] = []
    for start in range(0, len(lines), BATCH_SIZE):
        batch = tokenizer(lines[start : start + BATCH_SIZE], padding=True, return_tensors="pt")
        output = model.generate(**batch, num_beams=1, do_sample=False, max_new_tokens=MOST_NEW_TOKENS)
        answers += tokenizer.batch_decode(output, skip_special_tokens=True)
    Path(answers_file).write_text(json.dumps(answers, ensure_ascii=False, indent=0), encoding="utf-8")
    print(f"{len(answers)} lines in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
