import pytest

from samed_hf.reporting.formatting import (
    format_bytes,
    format_count,
    format_counts,
    format_duration,
    format_interval,
    format_ml,
    format_number,
    format_scores,
    format_sides,
    format_value,
    plural,
)

THIN = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_count(1234567), f"1{THIN}234{THIN}567"),
        (format_number(0.12345), "0.123"),
        (format_number(99.6), "100"),
        (format_number(12345.6), f"12{THIN}346"),
        (format_number(-3.0), "-3"),
        (format_bytes(1_250_000), "1.25 MB"),
        (format_bytes(12_500_000), "12 MB"),
        (format_bytes(2_500_000_000), "2.5 GB"),
        (format_sides([512, 512, 30]), "512 × 512 × 30"),
        (format_sides([0.9765625, 0.9765625, 2.0]), "0.977 × 0.977 × 2"),
        (format_counts({"LPS": 5, "RAS": 1}), "LPS in 5, RAS in 1"),
        (format_interval("dice", (0.25, 0.5)), "0.2500 to 0.5000"),
        (format_interval("hd95", None), "–"),
        (plural(1, "case"), "1 case"),
        (plural(0, "case"), "0 cases"),
    ],
)
def test_texts(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "no"), (True, "yes"), ([], "no"), (0, "0"), ({"liver": 1.0}, "liver: 1.0"), (("a", None), "a, no")],
)
def test_settings(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("ml", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (9.1, "9.1"), (99.94, "99.9"), (99.97, "100"), (1510.4, "1510"), (1e5, "100000")],
)
def test_millilitres(ml, text):
    assert format_ml(ml) == text


@pytest.mark.parametrize(("seconds", "text"), [(5.04, "5.0 s"), (125, "2 min 5 s"), (7384, "2 h 3 min")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


METRICS = {
    "protocol": "strict",
    "distance_unit": "mm",
    "mean": {"dice": 0.45, "hd95": 11.504},
    "per_class": {
        "left kidney": {"dice": 0.9, "hd95": 11.504, "cases": 2, "hd95_undefined": 0},
        "bar": {"dice": 0.0, "hd95": None, "cases": 1, "hd95_undefined": 1},
        "cyst": {"dice": None, "hd95": None, "cases": 0, "hd95_undefined": 0},
    },
    "per_case": {"a": {}, "b": {}},
}


def test_the_table_of_scores():
    assert format_scores(METRICS).splitlines() == [
        "label           DSC     HD95 (mm)  cases",
        "----------------------------------------",
        "left kidney  0.9000         11.50      2",
        "bar          0.0000             -      1  (no HD95 in 1)",
        "cyst              -             -      0",
        "----------------------------------------",
        "mean         0.4500         11.50",
        "protocol strict, 2 cases; DSC from 0 to 1",
    ]


def test_the_table_without_what_older_files_lack():
    rows = {"disc": {"dice": 1.0, "hd95": 0.0}}
    metrics = METRICS | {"per_class": rows, "mean": {"dice": None, "hd95": None}, "protocol": "samed"}
    del metrics["distance_unit"]
    lines = format_scores(metrics).splitlines()
    assert "HD95 (voxel)" in lines[0]
    assert lines[2].split() == ["disc", "1.0000", "0.00"]
    assert lines[4].split() == ["mean", "-", "-"]
    assert lines[-1].startswith("protocol samed")
