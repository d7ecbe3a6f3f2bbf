"""Directories of ensembles: adapters that are averaged, and `ensemble.json` with the hashes of their files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..hub.repository import ADAPTER_FILES
from ..model.adapter_files import BASE_DIRECTORY, AdapterFiles
from ..utils.atomic import atomic_directory
from ..utils.packaged import is_directory

__all__ = ["ENSEMBLE", "ensemble_members", "write_ensemble"]

ENSEMBLE = "ensemble.json"
_COPIED = (*ADAPTER_FILES, "config.json", "preprocessor_config.json", "training_settings.json")


def write_ensemble(directory: Path, adapters: Mapping[str, Path]) -> None:
    """Copy adapters by their names in the ensemble into `directory`, which is complete or isn't there.

    Base models in the parent of `directory` are copied too, equal ones once, so that the ensemble can be moved; others
    stay where the adapters name them.

    Raises:
        FileNotFoundError: a directory holds no adapter.
    """
    parent = directory.resolve().parent
    with atomic_directory(directory) as temporary:
        bases: dict[str, str] = {}
        for name, source in adapters.items():
            files = AdapterFiles.find(str(source), {})
            if files is None:
                raise FileNotFoundError(f"{source} holds no adapter (no adapter_config.json): train it first.")
            (temporary / name).mkdir()
            for file in _COPIED:
                if (source / file).is_file():
                    shutil.copyfile(source / file, temporary / name / file)
            base = Path(named := files.named_base({})[0] or "")
            if is_directory(named) and parent in base.resolve().parents:
                key = json.dumps(_hash_files(base))
                if key not in bases:
                    bases[key] = f"{BASE_DIRECTORY}_{len(bases)}" if bases else BASE_DIRECTORY
                    shutil.copytree(base, temporary / bases[key])
                content = files.content | {"base_model_name_or_path": f"../{bases[key]}"}
                text = json.dumps(content, indent=2, sort_keys=True) + "\n"
                (temporary / name / ADAPTER_FILES[0]).write_text(text, encoding="utf-8")
        record = {"members": list(adapters), "files": _hash_files(temporary)}
        (temporary / ENSEMBLE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def ensemble_members(adapter: str) -> list[str]:
    """The directories of an ensemble's members, or `adapter` itself if it is no directory of [`write_ensemble`].

    Raises:
        ValueError: `ensemble.json` is damaged, or a file has changed or is missing since it was written.
    """
    directory = Path(adapter)
    if not (directory / ENSEMBLE).is_file():
        return [adapter]
    advice = "copy the whole directory again, or repeat the command that wrote it (cross-validate, train)"
    try:
        record = json.loads((directory / ENSEMBLE).read_text(encoding="utf-8"))
        members, files = [str(name) for name in record["members"]], dict(record["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / ENSEMBLE} is damaged ({error}): {advice}.") from error
    needed = {f"{name}/{file}" for name in members for file in ADAPTER_FILES}
    if not members or not needed <= files.keys():
        raise ValueError(f"{directory / ENSEMBLE} doesn't list members with {' and '.join(ADAPTER_FILES)}: {advice}.")
    found = _hash_files(directory)  # files in the directory alone
    if changed := [name for name, digest in files.items() if found.get(name) != digest]:
        raise ValueError(f"The ensemble {adapter!r} has changed in {', '.join(changed[:3])}: {advice}.")
    return [str(directory / name) for name in members]


def _hash_files(directory: Path) -> dict[str, str]:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and path != directory / ENSEMBLE]
    return {
        path.relative_to(directory).as_posix(): f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in paths
    }
