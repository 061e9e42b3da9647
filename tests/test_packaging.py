"""House rules that no linter knows: where imports point, what files are called, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vanilla_transformer.scripts.command_line import COMMANDS

ROOMS = [
    "tokenization",
    "modeling",
    "training",
    "deployment",
    "scripts",
]  # in the order in which text flows; never imported backwards


def room_folder(room: str) -> Path:
    """Where the room that is imported lies: in the checkout, or in site-packages when a wheel is tested."""
    file = importlib.import_module(f"vanilla_transformer.{room}").__file__
    assert file is not None
    return Path(file).parent


def files(*rooms: str) -> list[Path]:
    found = [path for room in rooms for path in sorted(room_folder(room).glob("*.py"))]
    assert found
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import statement, wherever it stands; `from . import x` has the module ''."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def imported_rooms(path: Path) -> set[str]:
    modules = [module for level, module in imports(path) if level == 0]
    assert "vanilla_transformer" not in modules, f"{path}: import from the room's own name"
    return {module.split(".")[1] for module in modules if module.startswith("vanilla_transformer.")}


def module_names() -> list[str]:
    return [
        f"vanilla_transformer.{room}.{module.name}"
        for room in ROOMS
        for module in pkgutil.iter_modules([str(room_folder(room))])
    ]


@pytest.mark.parametrize("name", module_names())
def test_every_module_can_be_imported(name):
    importlib.import_module(name)


def test_imports_between_rooms_never_point_backwards():
    # Whoever imports the tokenizer alone must still find it through the Auto classes, which modeling fills.
    allowed = {("tokenization", "__init__.py", "modeling")}
    for i, room in enumerate(ROOMS):
        for path in files(room):
            for target in imported_rooms(path):
                backwards = ROOMS.index(target) > i
                assert not backwards or (room, path.name, target) in allowed, (
                    f"{room}/{path.name} imports {target}"
                )


def test_tokenization_asks_for_modeling_last():
    path = room_folder("tokenization") / "__init__.py"
    targets = [
        module for level, module in imports(path) if level or module.startswith("vanilla_transformer.")
    ]
    assert "vanilla_transformer.modeling" not in targets[:-1]


@pytest.mark.parametrize("path", files("modeling"), ids=lambda path: path.name)
def test_modeling_needs_only_torch_and_transformers(path):
    """It travels to the Hub, where nothing else is certain (huggingface_hub comes with transformers)."""
    free = {"torch", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    if path.name == "__init__.py":
        free.add("vanilla_transformer.tokenization")
    for level, module in imports(path):
        assert level or module in free or module.split(".")[0] in free, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", files("tokenization"), ids=lambda path: path.name)
def test_hub_tokenizers_need_only_tokenizers_and_transformers(path):
    if not path.name.startswith(("tokenization_", "image_processing_")):
        pytest.skip("does not travel to the Hub")
    free = {"tokenizers", "transformers"} | sys.stdlib_module_names
    if path.name.startswith("image_processing_"):
        free |= {"torch", "numpy"}
    for level, module in imports(path):
        assert level or module.split(".")[0] in free, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", files("modeling", "tokenization"), ids=lambda path: path.name)
def test_siblings_are_imported_in_the_one_form_that_the_hub_understands(path):
    """save_pretrained finds the files to copy by a text pattern, in docstrings too."""
    relative = {module for level, module in imports(path) if level}
    for level, module in imports(path):
        assert level <= 1, f"{path.name} imports from above its room"
        assert not level or re.fullmatch(r"\w+", module), (
            f"{path.name} imports from .{module}: one file, by its name"
        )
    found = re.findall(r"^\s*(?:import|from)\s+\.(\S*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found) == relative, f"{path.name}: a docstring line looks like an import"
    for module in relative:
        assert (path.parent / f"{module}.py").is_file(), (
            f"{path.name} imports from .{module}, which is not there"
        )


def test_file_names_are_unique_across_the_hub_rooms():
    """They land in one folder of the Hub."""
    names = [path.name for path in files("modeling", "tokenization") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_no_script_hides_another_module():
    """`python scripts/demo.py` puts scripts/ first on the path: a datasets.py there would be `datasets`."""
    taken = sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()
    ours = {path.stem for path in files("scripts")} - {"__init__"}
    assert not ours & taken


def test_every_command_has_its_file_and_every_file_its_command():
    commands = set()
    for path in files("scripts"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and "command" in map(ast.unparse, node.decorator_list):
                assert node.name == "main"
                commands.add(path.stem.replace("_", "-"))
    assert commands == set(COMMANDS)


def test_the_rooms_are_not_importable_by_their_bare_names(tmp_path):
    code = f"import importlib.util as u; print([n for n in {[*ROOMS, 'tests']} if u.find_spec(n)])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_type_checkers_have_one_relative_link_per_room(checkout):
    folder = checkout / ".typing" / "vanilla_transformer"
    assert sorted(path.name for path in folder.iterdir()) == sorted(ROOMS)
    for room in ROOMS:
        assert (folder / room).readlink() == Path("..", "..", room)


def test_the_pinned_versions_lie_within_the_ranges(checkout):
    lines = (checkout / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name != "vanilla-transformer":
            assert requirement.specifier.contains(pins[name]), f"{text}, and constraints.txt has {pins[name]}"
            assert not re.search("<|==|~=", str(requirement.specifier)), f"{text}: lower bounds only"


@pytest.fixture(scope="module")
def wheel(request, tmp_path_factory) -> zipfile.ZipFile:
    """The wheel under test ($VANILLA_TRANSFORMER_WHEEL), or one built from the checkout through the sdist."""
    named = os.environ.get("VANILLA_TRANSFORMER_WHEEL")
    if named:
        return zipfile.ZipFile(named)
    checkout = request.getfixturevalue("checkout")
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: torch wants a setuptools anyway, and nothing needs to be fetched.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_the_four_rooms_and_nothing_else(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"vanilla_transformer"}
    assert {name.split("/")[1] for name in names} == set(
        ROOMS
    )  # so no vanilla_transformer/__init__.py either
    modules = {name.removeprefix("vanilla_transformer/") for name in names if name.endswith(".py")}
    assert modules == {f"{path.parent.name}/{path.name}" for path in files(*ROOMS)}


@pytest.mark.slow
def test_the_wheel_holds_the_files_that_are_not_python(wheel):
    card = wheel.read("vanilla_transformer/training/hub_card.md").decode()
    assert (
        "{{ card_data }}" in card
    )  # the text, and not the name of the file that the link in training/ points to
    recipes = {path.name for path in (room_folder("scripts") / "recipes").glob("*.yaml")}
    prefix = "vanilla_transformer/scripts/recipes/"
    assert {name.removeprefix(prefix) for name in wheel.namelist() if name.startswith(prefix)} == recipes
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel.namelist())


@pytest.mark.skipif("VANILLA_TRANSFORMER_WHEEL" not in os.environ, reason="no wheel is under test")
def test_it_is_the_wheel_that_is_being_tested():
    for room in ROOMS:
        assert room_folder(room).is_relative_to(sysconfig.get_path("purelib"))
