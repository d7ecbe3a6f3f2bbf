"""Export to ONNX: a model without adapter, with one, and merged gives PyTorch's logits in ONNX Runtime."""

import pytest
import torch
from torch import nn

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config

from ..conftest import randomize_lora

SIZE = 512


def make_model(state: str) -> SamedForSemanticSegmentation:
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 64}
    vision |= {"output_channels": 32, "num_pos_feats": 16, "global_attn_indexes": [1]}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation(
        SamedConfig(
            image_size=SIZE,
            num_labels=3,
            vision_config=vision,
            prompt_encoder_config={"hidden_size": 32},
            mask_decoder_config=decoder,
        )
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)
    if state != "base":
        model.add_adapter(samed_lora_config())
        randomize_lora(model)
    if state == "merged":
        model.merge_and_unload()
    return model.eval()


@pytest.mark.slow
def test_onnx_gives_the_logits_of_pytorch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, pixel_values = make_model("adapter"), torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model(pixel_values).logits
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (pixel_values,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: pixel_values.numpy()})[0]
    assert expected.std() > 1e-3
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
