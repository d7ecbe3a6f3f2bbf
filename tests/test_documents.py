"""What README and docs tell a user to type can be typed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samed_hf.cli import cross_validate
from samed_hf.cli.parser import make_parser
from samed_hf.training import parse_arguments

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
DEVELOPMENT = ("pip", "python", "make", "nginx")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def commands(page: str) -> list[list[str]]:
    text = "".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = (line for row in text.splitlines() for line in row.split("&&"))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_flags_they_are_given(page):
    for program, *words in commands(page):
        if program == "samed-hf":
            parsers = {"train": parse_arguments, "cross-validate": cross_validate.parse}
            parsers[words[0]](words[1:]) if words[0] in parsers else make_parser().parse_args(words)
        elif program == "accelerate":
            parse_arguments(words[words.index("examples/train_synapse.py") + 1 :])
        else:
            assert program in DEVELOPMENT, program


def test_the_readme_is_short_and_names_its_commands():
    assert (ROOT / "README.md").stat().st_size <= 10_000
    assert {words[1] for words in commands("README.md") if words[0] == "samed-hf"} >= {
        *("validate", "train", "evaluate", "cross-validate", "compare", "predict", "push", "doctor")
    }


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), target


def test_the_python_of_the_readme_runs(tiny_sam, tmp_path, monkeypatch):
    code, _ = blocks("README.md", "python")  # the other one is tests/test_publishing.py's
    for name, small in (("facebook/sam-vit-base", str(tiny_sam)), ("512", "64"), ("128", "16")):
        assert name in code
        code = code.replace(name, small)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)).save("slice.png")
    names: dict = {}
    exec(code, names)
    assert names["masks"][0].shape == (64, 64)
    assert not names["merged"]._hf_peft_config_loaded
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()
