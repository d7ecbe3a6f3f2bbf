"""Saving and uploading a SAMed model: its active adapter alone, or the whole model."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from peft import get_peft_model_state_dict
from transformers.models.sam.modeling_sam import SamPreTrainedModel
from transformers.utils.hub import PushToHubMixin

from ..hub.obsolete import obsolete_files
from ..hub.push import create_repository, push_adapter
from ..utils.atomic import atomic_update
from ..utils.packaged import is_directory
from .adapter_files import BASE_DIRECTORY, write_base_path
from .adapters import SamedAdapterMixin
from .image_processing_samed import SamedImageProcessor

__all__ = ["SavedPreTrainedModel"]

_HUB_OPTIONS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")


class SavedPreTrainedModel(SamedAdapterMixin, SamPreTrainedModel):  # type: ignore[misc]  # other arguments
    """`save_pretrained` and `push_to_hub`."""

    def save_pretrained(  # type: ignore[override]  # adds image_processor; the others are passed on
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *,
        image_processor: SamedImageProcessor | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the active adapter alone, or the whole model if it has none, with its configs.

        The files are moved into the directory when all of them are complete, and those of an earlier save that
        contradict them are removed: adapters with a whole model and the reverse, other shards. If a model was changed
        since it was loaded by merging an adapter, the adapters added to it are saved with their base, in `base_model/`.

        Args:
            save_directory: created if missing.
            is_main_process: `False` in the other processes of a distributed run, which write nothing.
            image_processor: defaults to the model's own, or one of its image size with the CT window.
            push_to_hub: upload the model afterwards, to `repo_id` (by default the directory's name), with the other
                arguments of [`push_to_hub`] in `kwargs`.
            **kwargs: arguments of [`~transformers.PreTrainedModel.save_pretrained`]: `state_dict`, `variant`,
                `max_shard_size`, … An adapter is always one file.
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise ValueError(f"save_directory is the file {str(directory)!r}: expected a directory.")
        hub = {key: kwargs.pop(key) for key in _HUB_OPTIONS if key in kwargs}
        if not is_main_process:
            super().save_pretrained(directory, is_main_process=False, **kwargs)
            return
        processor = image_processor or self.image_processor or SamedImageProcessor(self.config.image_size)
        self._save(directory, processor, kwargs)
        if push_to_hub:
            own, self.image_processor = self.image_processor, processor
            try:
                self.push_to_hub(hub.pop("repo_id", directory.resolve().name), **hub)
            finally:
                self.image_processor = own

    def _save(self, directory: Path, processor: SamedImageProcessor, kwargs: dict[str, Any]) -> None:
        active = self.active_adapters()[0] if self._hf_peft_config_loaded else None
        base = self.peft_config[active].base_model_name_or_path if active else None
        if base and is_directory(base) and Path(base).resolve() == directory.resolve():
            raise ValueError(
                f"save_directory is {str(directory)!r}, where the adapter's base model is: give another directory, or "
                "save the whole model after merge_and_unload."
            )

        def obsolete(written: list[str]) -> list[str]:
            present = [path for path in (*directory.glob("*"), *directory.glob("adapter/*")) if path.is_file()]
            return obsolete_files([path.relative_to(directory).as_posix() for path in present], written)

        # The file that is loaded first is moved last: adapter_config.json never exists without complete weights.
        with atomic_update(directory, obsolete=obsolete) as temporary:
            if active:
                kwargs = {key: value for key, value in kwargs.items() if key not in ("variant", "max_shard_size")}
            super().save_pretrained(temporary, **kwargs)
            config = copy.deepcopy(self.config)
            config.base_fingerprint = None
            if active:
                config.dtype = torch.float32  # the adapter's; the base model's in this process doesn't matter
                if active in self._adapters:
                    config.base_fingerprint = self._adapters[active][0].base_fingerprint
                if not base:
                    self._base_model().save_pretrained(temporary / BASE_DIRECTORY)
                write_base_path(temporary / "adapter_config.json", directory)
            config.save_pretrained(temporary)
            processor.save_pretrained(temporary)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> dict[str, torch.Tensor]:
        """The weights of the active adapter or of another one, as in transformers."""
        if not self._hf_peft_config_loaded:
            raise ValueError("The model has no adapter: expected one, by add_adapter or load_adapter.")
        # PEFT would ask the Hub for the base's config, to look for new words in its vocabulary.
        name = adapter_name or self.active_adapters()[0]
        return get_peft_model_state_dict(self, state_dict, adapter_name=name, save_embedding_layers=False)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]  # options go to push_adapter
        """Upload the active adapter for every way of loading, or a model without one whole, and return the address.

        What an earlier upload left in the repository and contradicts this one is deleted in the same commit.

        Args:
            repo_id: "user/name", or "name" in one's own namespace.
            **kwargs: `commit_message`, `private`, `token`, `revision` (a branch), `create_pr`; with an adapter the
                others of [`~samed_hf.hub.push.push_adapter`] (`dtype`, `base_model`, …), else those of
                [`~transformers.PreTrainedModel.push_to_hub`].
        """
        if not self._hf_peft_config_loaded:
            create_repository(HfApi(token=kwargs.get("token")), repo_id, kwargs.get("private"))
            return PushToHubMixin.push_to_hub(self, repo_id, **kwargs)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return push_adapter(directory, repo_id, **kwargs)

    def _upload_modified_files(  # transformers' own deletes nothing
        self,
        working_dir: str | os.PathLike[str],
        repo_id: str,
        files_timestamps: dict[str, float],
        commit_message: str | None = None,
        token: bool | str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
    ) -> Any:
        api = HfApi(token=token)
        if revision is not None and not create_pr and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo_id, revision=revision)
        return api.upload_folder(
            folder_path=Path(working_dir),
            repo_id=repo_id,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            commit_description=commit_description,
            create_pr=create_pr,
            revision=revision,
            delete_patterns=obsolete_files(present, os.listdir(working_dir)) or None,
        )
