"""Each module imports only from levels below its own."""

import ast
from pathlib import Path

import pytest

import samed_hf

ROOT = Path(samed_hf.__file__).parent
LEVELS = [
    {"configuration_samed", "losses", "metrics", "transforms", "volumes", "adapter", "checkpoint_conversion"}
    | {"files", "presets", "published", "schedules", "random_sam", "launching", "original_keys"},
    {"image_processing_samed", "evaluate_metric", "data.phantom", "original_checkpoint", "card", "report"}
    | {"data.synapse"},
    {"hub", "data.slices", "data.prepare"},
    {"pretrained"},
    {"modeling_samed"},
    {"inference", "checkpoints", "convert", "training_arguments"},
    {"evaluation", "training_setup", "serving"},
    {"training_progress"},
    {"training"},
    {"train_command", "commands"},
    {"cli"},
]
LEVEL = {module: index for index, level in enumerate(LEVELS) for module in level}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py") if path.stem != "__init__"
)


def imported_modules(module: str) -> set[str]:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    package = module.split(".")[:-1]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            # "from . import a" names a module; "from .a import b" may name one inside, or not.
            places = [*base, *(node.module or "").split(".")]
            inside = [".".join([*places, alias.name]).strip(".") for alias in node.names]
            names.update(name if name in LEVEL else ".".join(places).strip(".") for name in inside)
        assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("samed_hf")), (
            "import relatively"
        )
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_below(module):
    assert module in LEVEL, f"give {module} a level here and in the README"
    for other in imported_modules(module):
        assert LEVEL[other] < LEVEL[module], f"{module} (level {LEVEL[module]}) imports {other} (level {LEVEL[other]})"


def test_the_readme_names_every_module():
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    assert [module for module in MODULES if f"`{module}`" not in readme] == []


def test_no_level_names_a_module_that_is_gone():
    assert set(LEVEL) == set(MODULES)
