"""What a label's name means in SNOMED CT, the terminology of DICOM segmentations."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from .snomed import ABNORMALITIES, ORDINALS, RIBS, STRUCTURES, VERTEBRAE

__all__ = ["Code", "Term", "known_codes", "term_of"]


class Code(NamedTuple):
    """A coded concept: value, meaning in plain words, and the terminology it is of."""

    value: str
    meaning: str
    scheme: str = "SCT"


class Term(NamedTuple):
    """How a DICOM segment describes what it shows.

    Attributes:
        category: Anatomical structure, morphologically abnormal structure or tissue (context group CID 7150).
        type: What it is, e.g. Kidney (CID 7151).
        modifiers: Of `type`: left, right, anterior or posterior.
        region: Where a morphologically abnormal structure or a vessel lies, e.g. Liver.
        region_modifiers: Of `region`.
    """

    category: Code
    type: Code
    modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    region_modifiers: tuple[Code, ...] = ()


ANATOMY = Code("91723000", "Anatomical Structure")
ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "Tissue")

_SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}
_ENDS = {"anterior": Code("255549009", "Anterior"), "posterior": Code("255551008", "Posterior")}

_SPELLINGS = {"oesophagus": "esophagus", "tumour": "tumor", "grey": "gray", "oedema": "edema"} | {
    **{"haemorrhage": "hemorrhage", "vertebrae": "vertebra", "arteries": "artery", "metastases": "metastasis"},
    **{"ovaries": "ovary", "testes": "testis", "masses": "mass", "hippocampi": "hippocampus", "femora": "femur"},
    **{"l": "left", "lt": "left", "r": "right", "rt": "right", "hepatic": "liver", "renal": "kidney"},
    **{"lk": "left kidney", "rk": "right kidney", "lag": "left adrenal gland", "rag": "right adrenal gland"},
    **{"primaries": "primary"},
}
_FILLERS = {"the", "of", "and", "both", "organ", "primary"}
_PLURAL = re.compile(r"(?<=[a-z]{2}[^sui])s$")


def term_of(name: str) -> Term:
    """Find what a label's name means.

    Case, underscores, hyphens, brackets, the order of the words, British or American spelling and the plural don't
    matter: "left_kidney", "Kidney (L)" and "KidneyLeft" are the same.

    Args:
        name: The label's name.

    Returns:
        Its term. A name that isn't known is tissue, the most general concept that the standard offers for a segment
        (CID 7150 and CID 7166); the segment's label says the rest.
    """
    words = _words(name)
    for keys, code in _abnormalities():
        if keys & words:
            region, modifiers = _structure(words - keys)
            return Term(ABNORMAL, code, region=region, region_modifiers=modifiers)
    structure, modifiers = _structure(words)
    if structure is not None:
        return Term(ANATOMY, structure, modifiers)
    if "vessel" in words and (region := _structure(words - {"vessel"}))[0] is not None:
        return Term(ANATOMY, _structures()[frozenset({"vessel"})][0], (), *region)
    return Term(TISSUE, TISSUE)


def known_codes() -> list[Code]:
    """Every code that a term can hold, each once."""
    codes = {code for code, _ in _structures().values()} | {code for _, code in _abnormalities()}
    return sorted({*codes, ANATOMY, ABNORMAL, TISSUE, *_SIDES.values(), *_ENDS.values()})


def _words(name: str) -> frozenset[str]:
    """The words of a name, in one spelling."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = []
    for word in re.findall(r"[a-z0-9]+", apart.lower()):
        word = _SPELLINGS.get(word, word)
        words += _SPELLINGS.get(_PLURAL.sub("", word), _PLURAL.sub("", word)).split()
    return frozenset(word.removeprefix("0") for word in words) - _FILLERS


def _structure(words: frozenset[str]) -> tuple[Code | None, tuple[Code, ...]]:
    """The structure of some words, and its modifiers."""
    found = _structures()
    if words in found:
        return found[words][0], ()
    modifiers = words & (_SIDES.keys() | _ENDS.keys())
    code, marks = found.get(words - modifiers, (None, ""))
    sides, ends = modifiers & _SIDES.keys(), modifiers & _ENDS.keys()
    if code is None or (sides and "*" not in marks) or (ends and "+" not in marks):
        return None, ()
    # Both sides, or both ends, are the whole.
    kept = [word for pair in (sides, ends) if len(pair) == 1 for word in pair]
    return code, tuple((_SIDES | _ENDS)[word] for word in kept)


@cache
def _structures() -> dict[frozenset[str], tuple[Code, str]]:
    """By the words of each of its names: a structure, and its marks."""
    table = {}
    for names, code, marks in _lines(STRUCTURES):
        table |= {_words(name): (code, marks) for name in names}
    for letter, values in VERTEBRAE.items():
        for number, value in enumerate(values.split(), 1):
            code = Code(value, f"{letter}{number} vertebra")
            table |= {_words(name): (code, "") for name in (code.meaning, f"{letter}{number}")}
    for number, (value, ordinal) in enumerate(zip(RIBS.split(), ORDINALS.split(), strict=True), 1):
        table |= {_words(name): (Code(value, f"{ordinal} rib"), "*") for name in (f"{ordinal} rib", f"rib {number}")}
    return table


@cache
def _abnormalities() -> list[tuple[frozenset[str], Code]]:
    """The words that tell each of them, in the order in which they count."""
    lines = _lines(ABNORMALITIES)
    return [(frozenset().union(*(_words(name) for name in names if "," not in name)), code) for names, code, _ in lines]


def _lines(table: str) -> list[tuple[list[str], Code, str]]:
    """Names, code and marks of each line of a table."""
    lines = []
    for line in table.strip().splitlines():
        head, _, aliases = line.partition(" = ")
        value, meaning = head.split(" ", 1)
        code = Code(value.rstrip("*+"), meaning)
        lines.append(([meaning, *filter(None, aliases.split("; "))], code, value.lstrip("0123456789")))
    return lines
