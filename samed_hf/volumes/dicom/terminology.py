"""What a label's name means in SNOMED CT, the terminology of DICOM segmentations."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

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
    if "vessel" in words:
        region, modifiers = _structure(words - {"vessel"})
        if region is not None:
            vessel, _ = _structures()[frozenset({"vessel"})]
            return Term(ANATOMY, vessel, region=region, region_modifiers=modifiers)
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
    """Map the words of each name of a structure to its code and marks."""
    return {_words(name): (code, marks) for names, code, marks in _rows("structure") for name in names}


@cache
def _abnormalities() -> list[tuple[frozenset[str], Code]]:
    """Return the words of each abnormality, any of which identifies it; the first match counts."""
    rows = _rows("abnormality")
    return [(frozenset().union(*(_words(name) for name in names if "," not in name)), code) for names, code, _ in rows]


def _rows(group: str) -> list[tuple[list[str], Code, str]]:
    """Return names, code and marks of a group's rows in `snomed.csv`.

    The mark `*` stands for paired structures, which have a left and a right one, `+` for those with an anterior and a
    posterior part. The codes are those of the DICOM standard's context groups, or of TotalSegmentator's published
    mapping (single ribs and muscles, myocardium, auricular appendage, first sacral vertebra, portal and splenic vein).
    """
    content = files(__package__).joinpath("snomed.csv").read_text(encoding="utf-8")
    return [
        ([row["meaning"], *filter(None, row["aliases"].split("; "))], Code(row["code"], row["meaning"]), row["marks"])
        for row in csv.DictReader(content.splitlines())
        if row["group"] == group
    ]
