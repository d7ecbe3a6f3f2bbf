"""SNOMED CT codes of label names, the terminology of DICOM segmentations."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

__all__ = ["Term", "term_of"]


class Term(NamedTuple):
    """How a DICOM segment describes what it shows."""

    category: Code  # anatomical structure, morphologically abnormal structure or tissue (context group CID 7150)
    type: Code  # e.g. Kidney (CID 7151)
    modifiers: tuple[Code, ...] = ()  # of `type`: left, right, anterior or posterior
    region: Code | None = None  # location of a morphologically abnormal structure or a vessel, e.g. Liver
    region_modifiers: tuple[Code, ...] = ()


_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
_ENDS = {"anterior": codes.SCT.Anterior, "posterior": codes.SCT.Posterior}
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
    """Return the term of a label's name.

    Case, underscores, hyphens, brackets, the order of the words, British or American spelling and the plural don't
    matter: "left_kidney", "Kidney (L)" and "KidneyLeft" are the same. An unknown name is tissue, the most general
    concept that the standard has for a segment (CID 7150 and CID 7166).
    """
    words = _words(name)
    for keys, code in _abnormalities():
        if keys & words:
            region, modifiers = _structure(words - keys)
            return Term(codes.SCT.MorphologicallyAbnormalStructure, code, (), region, modifiers)
    structure, modifiers = _structure(words)
    if structure is not None:
        return Term(codes.SCT.AnatomicalStructure, structure, modifiers)
    if "vessel" in words:
        region, modifiers = _structure(words - {"vessel"})
        if region is not None:
            vessel, _ = _structures()[frozenset({"vessel"})]
            return Term(codes.SCT.AnatomicalStructure, vessel, (), region, modifiers)
    return Term(codes.SCT.Tissue, codes.SCT.Tissue)


def _words(name: str) -> frozenset[str]:
    """Return the words of a name, in one spelling."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = []
    for word in re.findall(r"[a-z0-9]+", apart.lower()):
        word = _SPELLINGS.get(word, word)
        words += _SPELLINGS.get(_PLURAL.sub("", word), _PLURAL.sub("", word)).split()
    return frozenset(word.removeprefix("0") for word in words) - _FILLERS


def _structure(words: frozenset[str]) -> tuple[Code | None, tuple[Code, ...]]:
    """Return the structure of some words, and its modifiers."""
    found = _structures()
    if words in found:
        return found[words][0], ()
    sides, ends = words & _SIDES.keys(), words & _ENDS.keys()
    code, marks = found.get(words - sides - ends, (None, ""))
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
        (
            [row["meaning"], *filter(None, row["aliases"].split("; "))],
            Code(row["code"], "SCT", row["meaning"]),
            row["marks"],
        )
        for row in csv.DictReader(content.splitlines())
        if row["group"] == group
    ]
