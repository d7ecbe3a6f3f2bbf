"""The house has rooms, one above the other; a module imports only from modules that stand before it."""

import ast
from pathlib import Path

import pytest

import samed_hf

ROOT = Path(samed_hf.__file__).parent
ROOMS = {
    "ideas": "adapter attention sharding averaging best_score checkpoint_conversion configuration_samed files guarding "
    "interruption launching losses mask_geometry metrics overlapping precision preprocessing presets published "
    "random_sam requirements run_folder schedules zooms transforms evaluate_metric checkpoints",
    "scans": "volumes.geometry volumes.common volumes.snomed volumes.terminology volumes.scan_names volumes.nifti "
    "volumes.itk_files volumes.itk_voxels volumes.itk volumes.pictures volumes.dicom_headers volumes.dicom_frames "
    "volumes.dicom_gdcm volumes.dicom_search volumes.dicom_grid volumes.dicom_pixels volumes.dicom "
    "volumes.dicom_sources volumes.dicom_seg volumes.scan_files volumes.scans volumes",
    "the model": "image_processing_samed slicing batching card hub pretrained vision_encoder modeling_samed inference "
    "segmentation serving",
    "the machine": "memory_estimate memory_table machine_facts doctor",
    "data": "data.cases data.labels data.phantom data.synapse data.splits data.store data.slices data.prepare "
    "data.scan_cases data.folders data.synapse_dataset data.rows data.decathlon data.layouts",
    "the authors' code": "original_keys original_checkpoint convert",
    "scores": "report evaluation",
    "prediction": "postprocessing case_statistics preview prediction_page prediction_settings prediction_progress "
    "prediction_files prediction_report prediction prediction_run predict_command",
    "training": "training_arguments settings_file optimizers run_record training_run training_data training_setup "
    "dry_run training_log training_progress training_state training_step watching training_validation training "
    "training_charts training_page training_tables training_report train_command",
    "validation": "validation.problems validation.page validation.memory validation.suggestions validation.reading "
    "validation.measuring validation.case_checks validation.cohort_checks validation.fingerprint validation.charts "
    "validation.run validation.tables validation.report validate_command",
    "commands": "commands cli",
}
ORDER = [module for modules in ROOMS.values() for module in modules.split()]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path.parent != ROOT or path.stem != "__init__"
}
# A package whose __init__ imports nothing is but a folder.
MODULES = sorted(name for name, path in FILES.items() if path.stem != "__init__" or "import" in path.read_text("utf-8"))


def imported_modules(module: str) -> set[str]:
    path = FILES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = list(path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            # "from . import a" names a module; "from .a import b" may name one inside, or not.
            places = [*base, *(node.module or "").split(".")]
            inside = [".".join([*places, alias.name]).strip(".") for alias in node.names]
            names.update(name if name in ORDER else ".".join(places).strip(".") for name in inside)
        assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("samed_hf")), (
            "import relatively"
        )
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_before(module):
    assert module in ORDER, f"give {module} a place here and in the README"
    for other in imported_modules(module):
        assert ORDER.index(other) < ORDER.index(module), f"{module} imports {other}, which stands behind it"


def test_the_readme_names_every_module():
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    assert [module for module in MODULES if f"`{module}`" not in readme] == []


def test_no_room_names_a_module_that_is_gone():
    assert sorted(ORDER) == MODULES
