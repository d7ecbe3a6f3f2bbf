"""The page of an adapter as a static Space, whose model lies in the adapter's repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import yaml_dump

from .card import merge_cards, split_card

__all__ = ["MODEL", "lay_out_page", "open_space"]

MODEL = "browser/model.onnx"
"""The page's model in the adapter's repository."""

_CONNECT, _MARK = "connect-src 'self'", "<!-- samed_hf: begin"
_TEMPLATE = {".gitattributes", "README.md", "index.html", "style.css"}  # what the Hub puts into a new static Space
_CDN = "https://*.hf.co"  # the Hub redirects downloads there


def open_space(api: HfApi, name: str, private: bool) -> str:
    """Create a static Space, or check that an existing one is a page, and not public if `private`; return its name."""
    name = api.create_repo(name, repo_type="space", space_sdk="static", private=private or None, exist_ok=True).repo_id
    info, problem = api.space_info(name), None
    is_new = {file.rfilename for file in info.siblings or ()} <= _TEMPLATE
    is_new = is_new and len(api.list_repo_commits(name, repo_type="space")) <= 1
    if not is_new and "samed_hf" not in ((info.card_data and info.card_data.tags) or ()):
        problem = "holds something other than a page of samed_hf"
    elif private and not info.private:
        problem = "is public, and the adapter's repository is private or gated"
    if problem:
        raise ValueError(f"The Space {name!r} {problem}: nothing was uploaded. Give another one as browser_space.")
    return name


def lay_out_page(page: Path, target: Path, repo_id: str, model: str | None, license: str | None, present: str) -> None:
    """Copy a page; with `model`, the URL of a directory, it loads its model from there. `present` is as in a card."""
    shutil.copytree(page, target, ignore=shutil.ignore_patterns("*.onnx") if model else None)
    if model:
        config, index = target / "config.json", target / "index.html"
        config.write_text(json.dumps(json.loads(config.read_bytes()) | {"models": model}, indent=1), encoding="utf-8")
        text = index.read_text(encoding="utf-8").replace(_CONNECT, f"{_CONNECT} {model} {_CDN}", 1)
        index.write_text(text, encoding="utf-8")
    metadata, text = split_card((target / "README.md").read_text(encoding="utf-8"))
    metadata |= {"models": [repo_id]} | ({"license": license} if license else {})
    card = f"---\n{yaml_dump(metadata)}---\n\n{text.lstrip()}"
    card = merge_cards(card, present if _MARK in present else "", is_licensed=bool(license))
    (target / "README.md").write_text(card, encoding="utf-8")
