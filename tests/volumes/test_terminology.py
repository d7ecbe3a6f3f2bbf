import csv
import re
from importlib.resources import files

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from samed_hf.volumes.dicom.terminology import Term, term_of

# Of TotalSegmentator's published mapping; the DICOM standard's context groups, and so pydicom, don't have them.
FROM_TOTALSEGMENTATOR = {
    "110765007": "portal vein and splenic vein",
    "74281007": "myocardium",
    "68786006": "auricular appendage",
    "65985001": "s1 vertebra",
    "181674001": "gluteus maximus muscle",
    "78333006": "gluteus medius muscle",
    "75297007": "gluteus minimus muscle",
    "68455001": "iliopsoas muscle",
    "244849004": "deep muscle of back",
    "48535007": "first rib",
    "78247007": "second rib",
    "25888004": "third rib",
    "25523003": "fourth rib",
    "15339008": "fifth rib",
    "59558009": "sixth rib",
    "24915002": "seventh rib",
    "5953002": "eighth rib",
    "22565002": "ninth rib",
    "77644006": "tenth rib",
    "58830002": "eleventh rib",
    "43993008": "twelfth rib",
}
BTCV = {
    "spleen": ("78961009", None),
    "right kidney": ("64033007", "Right"),
    "left kidney": ("64033007", "Left"),
    "gallbladder": ("28231008", None),
    "esophagus": ("32849002", None),
    "liver": ("10200004", None),
    "stomach": ("69695003", None),
    "aorta": ("15825003", None),
    "inferior vena cava": ("64131007", None),
    "portal vein and splenic vein": ("110765007", None),
    "pancreas": ("15776009", None),
    "right adrenal gland": ("23451007", "Right"),
    "left adrenal gland": ("23451007", "Left"),
}


@pytest.fixture(scope="module")
def known_codes():
    """Every code of the table, each once."""
    table = files("samed_hf.volumes.dicom").joinpath("snomed.csv").read_text(encoding="utf-8")
    return sorted({(row["code"], row["meaning"]) for row in csv.DictReader(table.splitlines())})


@pytest.fixture(scope="module")
def dictionary():
    """The names of each SNOMED CT code in pydicom's dictionary, in lower case and without the words around."""
    meanings = {}
    for keyword in dir(codes.SCT):
        code = getattr(codes.SCT, keyword)
        if not isinstance(code, Code):
            continue
        plain = re.sub(r" \((body structure|morphologic abnormality)\)$", "", code.meaning.lower())
        plain = re.sub(r"^(bone )?structure of | structure$", "", plain)
        meanings.setdefault(code.value, set()).update({code.meaning.lower(), plain})
    return meanings


def plain(term):
    """A term as words: type, its modifiers, region, its modifiers."""
    return (
        term.type.meaning,
        [code.meaning for code in term.modifiers],
        term.region and term.region.meaning,
        [code.meaning for code in term.region_modifiers],
    )


def check_digit_is_right(value):
    """Verhoeff's check, which every SNOMED CT identifier passes: it catches a wrong digit and two exchanged ones."""
    turn = [0]
    for _ in range(7):
        turn.append((turn[-1] + 1) % 8)
    multiply = [[(i + j) % 5 if i < 5 and j < 5 else 0 for j in range(10)] for i in range(10)]
    for i in range(10):
        for j in range(10):
            if i < 5:
                multiply[i][j] = (i + j) % 5 if j < 5 else 5 + (i + j) % 5
            else:
                multiply[i][j] = 5 + (i - j) % 5 if j < 5 else (i - j) % 5
    permute = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permute) < 8:
        permute.append([permute[-1][digit] for digit in permute[1]])
    check = 0
    for position, digit in enumerate(reversed(value)):
        check = multiply[check][permute[position % 8][int(digit)]]
    return check == 0


def test_every_code_is_in_pydicoms_dictionary_under_the_same_meaning(dictionary, known_codes):
    for value, meaning in known_codes:
        if value in FROM_TOTALSEGMENTATOR:
            assert value not in dictionary
            assert meaning.lower() == FROM_TOTALSEGMENTATOR[value]
            continue
        names = dictionary[value]
        # The dictionary says "T1", "atlas" and "axis".
        vertebra = meaning.lower().removesuffix(" vertebra")
        assert meaning.lower() in names or {vertebra, {"c1": "atlas", "c2": "axis"}.get(vertebra)} & names, meaning


def test_every_code_passes_the_check_digit(known_codes):
    assert check_digit_is_right("78961009")
    assert not check_digit_is_right("78961008")
    assert not check_digit_is_right("87961009")
    assert [value for value, _ in known_codes if not check_digit_is_right(value)] == []


def test_no_code_stands_for_two_things(known_codes):
    values = [value for value, _ in known_codes]
    assert len(values) == len(set(values)) > 150


def test_categories_and_modifiers_are_those_of_the_standard():
    for code, standard in (
        (term_of("liver").category, codes.cid7150.AnatomicalStructure),
        (term_of("tumor").category, codes.cid7150.MorphologicallyAbnormalStructure),
        (term_of("?").category, codes.cid7150.Tissue),
        (term_of("?").type, codes.cid7166.Tissue),
        (term_of("left kidney").modifiers[0], codes.cid244.Left),
        (term_of("right kidney").modifiers[0], codes.cid244.Right),
        (term_of("anterior hippocampus").modifiers[0], codes.cid2.Anterior),
        (term_of("posterior hippocampus").modifiers[0], codes.cid2.Posterior),
    ):
        assert tuple(code) == tuple(standard)


@pytest.mark.parametrize("name", BTCV)
def test_the_organs_of_btcv(name):
    value, side = BTCV[name]
    term = term_of(name)
    assert term.type.value == value
    assert [code.meaning for code in term.modifiers] == ([side] if side else [])
    assert term.category.meaning == "Anatomical Structure"


@pytest.mark.parametrize(
    "names",
    [
        ["left kidney", "Left Kidney", "kidney_left", "kidney(L)", "LEFT-KIDNEY", "KidneyLeft", "kidney, left", "LK"],
        ["right adrenal gland", "adrenal_gland_right", "RAG", "Adrenal R", "right suprarenal gland"],
        ["esophagus", "Oesophagus", "OESOPHAGUS"],
        ["liver tumor", "liver_tumour", "Hepatic Tumour", "liver cancer", "tumor of the liver"],
        ["inferior vena cava", "IVC", "postcava", "inferior_vena_cava"],
        ["lung", "lungs", "both lungs", "left and right lung"],
        ["left lung upper lobe", "lung_upper_lobe_left", "upper lobe of left lung"],
        ["left atrium", "heart_atrium_left", "LA"],
        ["vertebra L1", "vertebrae_L1", "L1", "l1 vertebra"],
        ["fourth rib left", "rib_left_4", "left rib 4", "rib_04_left"],
        ["gray matter", "grey matter"],
        ["hemorrhage", "haemorrhage", "bleeding"],
        ["liver vessel", "hepatic vessels", "liver_vessels"],
    ],
)
def test_ways_to_write_a_name(names):
    terms = {term_of(name) for name in names}
    assert len(terms) == 1
    assert terms.pop().type.meaning != "Tissue"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("left ventricle", ("Left ventricle", [], None, [])),
        ("lung_middle_lobe_right", ("Middle lobe of right lung", [], None, [])),
        ("hippocampus_posterior", ("Hippocampus", ["Posterior"], None, [])),
        ("left anterior hippocampus", ("Hippocampus", ["Left", "Anterior"], None, [])),
        ("kidney_cyst_left", ("Cyst", [], "Kidney", ["Left"])),
        ("kidney tumor", ("Neoplasm", [], "Kidney", [])),
        ("cancer", ("Neoplasm", [], None, [])),
        ("colon cancer primaries", ("Neoplasm", [], "Colon", [])),
        ("liver metastases", ("Neoplasm, Secondary", [], "Liver", [])),
        ("peritumoral edema", ("Edema", [], None, [])),
        ("skin lesion", ("Lesion", [], "Skin", [])),
        ("hepatic vein", ("Hepatic vein", [], None, [])),
        ("head_of_femur_L", ("Head of femur", ["Left"], None, [])),
        ("vertebrae_T12", ("T12 vertebra", [], None, [])),
    ],
)
def test_structures_abnormalities_and_where_they_are(name, words):
    assert plain(term_of(name)) == words


@pytest.mark.parametrize(
    "name", ["", "?", "label 7", "thing", "肝", "left liver", "prostate/uterus", "anterior", "vein", "left", "c8", "l6"]
)
def test_an_unknown_name_is_tissue(name):
    tissue = Code("85756007", "SCT", "Tissue")
    assert term_of(name) == Term(tissue, tissue)
