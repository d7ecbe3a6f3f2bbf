"""The paper's geometry in full: SAM ViT-B of random weights, 512 pixels, nine labels."""

import pytest
import torch
from transformers import SamConfig, SamModel

from samed_hf import SamedForSemanticSegmentation, samed_lora_config
from samed_hf.hub import lay_out_repository

from ..conftest import randomize_lora


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """SAM's own default sizes are ViT-B's at 1024 pixels."""
    directory = tmp_path_factory.mktemp("vit_b")
    torch.manual_seed(0)
    SamModel(SamConfig()).save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_an_adapter_of_the_papers_size(base, tmp_path):
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=512, num_labels=9)
    model.add_adapter(samed_lora_config(rank=4))
    randomize_lora(model, std=0.02)
    assert sum(p.numel() for name, p in model.named_parameters() if "lora_" in name) == 147_456

    pixels = torch.rand(1, 3, 512, 512)
    output = model(pixels, labels=torch.randint(0, 9, (1, 512, 512)))
    assert output.logits.shape == (1, 9, 128, 128)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name

    model.save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20e6
    for dtype, most in (("float32", 20e6), ("float16", 10e6)):
        target = lay_out_repository(tmp_path, tmp_path / dtype, repo_id="me/vit-b", dtype=dtype, base=("lab/sam", None))
        assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= most
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = model.eval()(pixels).logits
        assert torch.equal(loaded(pixels).logits, logits)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(pixels).logits, logits, rtol=0, atol=1e-4)
