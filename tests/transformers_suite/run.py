"""Run transformers' own common tests on our classes, and on MarianMT and BART beside them; print one table.

    python tests/transformers_suite/run.py [--sdist FILE] [--report FILE.md] [PYTEST ARGUMENT ...]

The tests come from the source distribution of the transformers that is installed, which the package index has; nothing
of it is kept. What that distribution lacks (the tests of `generate` and of exporting, a table of tiny models on the Hub)
is stood in for by empty classes, so those are not run for anybody.

Exits 1 if a test of ours fails, or is skipped without both MarianMT's and BART's being skipped and without being named in
EXPLAINED.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
OURS, TOKENIZER, PEERS = "VanillaTransformerTest", "VanillaTransformerTokenizerTest", ("MarianTest", "BartTest")

# Skips of ours that neither peer shares: test -> why.
EXPLAINED: dict[str, str] = {
    "test_chat_template_save_loading": "loaded without a chat template",
    "test_integration": "compares with ids that a model's authors write down; ours are in tests/tokenization/",
    "test_integration_from_extractor": "likewise",
}

# What the tests import and the distribution does not hold.
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": (
        "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True, 'output_attentions': True,\n"
        "    'dtype': 'float16', 'chunk_size_feed_forward': 5, 'architectures': ['BertModel'],\n"
        "    'id2label': {0: 'label'}, 'label2id': {'label': '0'}, 'problem_type': 'regression'}\n"
    ),
    "__init__.py": "",
    "fixtures/sample_text.txt": "A man sleeps.\n\nTwo dogs play in the snow.\n",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="transformers-VERSION.tar.gz, instead of downloading it")
    parser.add_argument("--report", type=Path, help="write the table here as well, as Markdown")
    options, pytest_arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="transformers-suite-") as folder:
        work = Path(folder)
        lay_out(work, options.sdist or download(work))
        results = run(work, pytest_arguments)
    if not results:
        print("no test was run", file=sys.stderr)
        return 1
    text = report(results)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    wrong = complaints(results)
    if not pytest_arguments:
        wrong += [f"not run: {name}" for name in (OURS, TOKENIZER, *PEERS) if name not in results]
    print("\n".join(wrong), file=sys.stderr)
    return bool(wrong)


def download(work: Path) -> Path:
    """The source distribution of the installed version, from the package index that pip knows."""
    wanted = f"transformers=={version('transformers')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers", wanted]
    subprocess.run([*command, "--dest", str(work)], check=True)
    return next(work.glob("transformers-*.tar.gz"))


def lay_out(work: Path, sdist: Path) -> None:
    """transformers' tests as the package `tests`, with ours among those of its models."""
    with tarfile.open(sdist) as archive:
        tests = [m for m in archive.getmembers() if re.match(r"[^/]+/tests/", m.name)]
        if not tests:
            raise SystemExit(f"{sdist} holds no tests")
        archive.extractall(work, members=tests, filter="data")
    os.rename(work / tests[0].name.split("/")[0] / "tests", work / "tests")
    for name, text in STAND_INS.items():
        path = work / "tests" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    target = work / "tests" / "models" / "vanilla_transformer"
    target.mkdir(parents=True)
    for file in HERE.glob("suite_*.py"):
        shutil.copy(file, target / file.name.replace("suite_", "test_"))


def run(work: Path, arguments: list[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """{class: {test: (outcome, why)}}."""
    junit = work / "results.xml"
    # Most tests compare floats that small models give; one thread is fastest for those.
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "900",
        f"--junitxml={junit}",
    ]
    subprocess.run(
        [*command, "-W", "ignore", "tests/models/vanilla_transformer", *arguments],
        cwd=work,
        env=environment,
        check=False,
    )
    results: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for case in ElementTree.parse(junit).iter("testcase") if junit.exists() else ():
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if found is None else "skipped" if found.tag == "skipped" else "failed"
        why = "" if found is None else (found.get("message") or "").splitlines()[0]
        results[case.get("classname", "").rsplit(".", 1)[-1]][case.get("name", "")] = (outcome, why)
    return results


def report(results: dict[str, dict[str, tuple[str, str]]]) -> str:
    """The table, and the reasons of our skips."""
    lines = [
        f"transformers {version('transformers')}, torch {version('torch')}",
        "",
        "| tests of | passed | failed | skipped |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, tests in sorted(results.items(), reverse=True):
        counts = Counter(outcome for outcome, _ in tests.values())
        lines.append(f"| {name.removesuffix('Test')} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |")
    lines += ["", "| our skips | Marian | Bart | why |", "| --- | --- | --- | --- |"]
    for test, (outcome, why) in sorted(results.get(OURS, {}).items()):
        if outcome == "skipped":
            peers = " | ".join(results.get(peer, {}).get(test, ("not run", ""))[0] for peer in PEERS)
            lines.append(f"| {test} | {peers} | {EXPLAINED.get(test, why).replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def complaints(results: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """What is wrong with our own results, a line each."""
    wrong = []
    for name, tests in results.items():
        if name in PEERS:
            continue
        for test, (outcome, why) in tests.items():
            peers = {results[peer][test][0] for peer in PEERS if test in results.get(peer, {})}
            if outcome == "failed":
                wrong.append(f"failed: {name}::{test}: {why}")
            elif outcome == "skipped" and peers != {"skipped"} and test not in EXPLAINED:
                wrong.append(f"skipped, and not by both Marian and Bart: {test}: {why}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
