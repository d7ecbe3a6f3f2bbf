from samed_hf.reporting.tables import format_scores

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
