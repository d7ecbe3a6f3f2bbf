import pytest

from samed_hf.hub.obsolete import obsolete_files

ADAPTER = ["adapter_config.json", "adapter_model.safetensors", "config.json"]
WHOLE = ["model.safetensors", "config.json"]


@pytest.mark.parametrize(
    ("written", "kept", "removed"),
    [
        (
            WHOLE,
            [
                "README.md",
                "model.fp16.safetensors",
                "model.safetensors.index.fp16.json",
                "model_card.md",
                "config.json",
            ],
            [
                *ADAPTER[:2],
                "adapter_model.bin",
                "adapter/adapter_config.json",
                "adapter/adapter_model.safetensors",
                "model-00001-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
        (
            ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"],
            ["model.safetensors", "model.safetensors.index.json", "model.bf16.safetensors"],
            ["model.fp16.safetensors", "model.fp16-00001-of-00003.safetensors"],
        ),
        (
            ADAPTER,
            ["README.md", "training_settings.json", "adapter/notes.txt", "models.txt"],
            [
                "model.safetensors",
                "model.fp16.safetensors",
                "pytorch_model.bin",
                "pytorch_model.bin.index.json",
                "model-00001-of-00002.safetensors",
                "model.safetensors.index.json",
                "adapter/adapter_config.json",
            ],
        ),
    ],
)
def test_what_contradicts_a_save(written, kept, removed):
    assert obsolete_files([*written, *kept, *removed], written) == removed
