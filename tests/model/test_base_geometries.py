"""Every published base in its true widths, heads, MLP and windows, with random weights and two blocks or one.

One block has windows and one global attention; ViT-B and ViT-L have only the latter. At 224 pixels a window is as large
as the image, which halves the time of an export; windows over the border are those of the test of fused kernels.
"""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import SamConfig, SamModel

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.convert import convert_sam
from samed_hf.convert.keys import sam_keys
from samed_hf.diagnostics.memory import MODELS, StepSettings, base_config, make_meta_model
from samed_hf.inference import predict_slices
from samed_hf.model.onnx import export_onnx

from ..conftest import randomize_lora

FEW_BLOCKS = {name: {"num_hidden_layers": 1, "global_attn_indexes": [0]} for name in ("ViT-B", "ViT-L")}
TWO_BLOCKS = {"num_hidden_layers": 2, "global_attn_indexes": [1]}
ONE_BLOCK = {"num_hidden_layers": 1}
LABELS = {0: "background", 1: "liver", 2: "spleen"}
# What configurations of 2023 and 2024 hold besides.
OLD_KEYS = {"projection_dim": 512, "num_beams": 1, "torch_dtype": None, "model_type": "", "layer_norm_eps": 1e-6}


@pytest.fixture(scope="module", params=MODELS)
def base(request, tmp_path_factory):
    """Directory of a plain SAM of 1,024 pixels."""
    directory = tmp_path_factory.mktemp("base") / request.param
    torch.manual_seed(0)
    model = SamModel(
        SamConfig(
            vision_config=MODELS[request.param] | FEW_BLOCKS.get(request.param, TWO_BLOCKS),
            mask_decoder_config=ONE_BLOCK,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "pos" in name.rpartition(".")[2] and "vision_encoder" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    config["vision_config"] = OLD_KEYS | config["vision_config"]
    (directory / "config.json").write_text(json.dumps(config))
    return SimpleNamespace(name=request.param, directory=directory, vision=config["vision_config"])


@pytest.mark.slow
def test_from_base_to_export(base, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation.from_pretrained(base.directory, image_size=224, id2label=LABELS)
    assert model.config.vision_config.mlp_dim == base.vision["mlp_dim"]
    model.add_adapter(samed_lora_config(rank=4))
    lora = sum(one.numel() for name, one in model.named_parameters() if "lora_" in name)
    assert lora == base.vision["num_hidden_layers"] * 2 * 2 * 4 * base.vision["hidden_size"]  # A and B of q and v

    pixels, labels = torch.rand(1, 3, 224, 224), torch.randint(0, 3, (1, 56, 56))
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=1e-3)
    model.train()
    before = model(pixels, labels=labels).loss
    before.backward()
    optimizer.step()
    assert model(pixels, labels=labels).loss < before
    randomize_lora(model, std=0.02)

    processor = SamedImageProcessor(224, (-125, 275))
    model.eval().save_pretrained(tmp_path / "adapter", image_processor=processor)
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    with torch.inference_mode():
        logits = model(pixels).logits
        assert torch.equal(loaded(pixels).logits, logits)
        merged = loaded.merge_and_unload()(pixels).logits
    close = {"rtol": 0, "atol": 1e-4 * float(logits.std())}
    torch.testing.assert_close(merged, logits, **close)

    stack = pixels[:, 0].repeat(2, 1, 1).numpy()
    assert predict_slices(loaded, stack, processor).shape == (2, 224, 224)
    export_onnx(loaded, tmp_path / "model.onnx", processor)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    exported = torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])
    torch.testing.assert_close(exported, logits, **close)


@pytest.mark.parametrize("base", ["SlimSAM-77", "SlimSAM-50"], indirect=True)
def test_a_checkpoint_of_the_original_code(base, tmp_path):
    model = SamModel.from_pretrained(base.directory)
    names = sam_keys(depth=2, decoder_layers=1, num_masks=4, iou_depth=3)
    torch.save({key: model.get_parameter(name).data for key, name in names.items()}, tmp_path / "sam.pth")
    converted = SamModel.from_pretrained(convert_sam(tmp_path / "sam.pth", tmp_path / "converted"))
    found = converted.config.vision_config.to_dict()
    for key in (*MODELS["ViT-H"], "window_size", "image_size"):
        assert found[key] == base.vision[key], key
    assert all(torch.equal(weight, model.get_parameter(name)) for name, weight in converted.named_parameters())


@pytest.mark.slow
def test_medsam_at_its_own_size(tmp_path):
    """At 1,024 pixels nothing is interpolated, and the image embeddings are those of the plain model."""
    torch.manual_seed(0)
    plain = SamModel(SamConfig(vision_config=TWO_BLOCKS | {"num_hidden_layers": 1, "global_attn_indexes": []})).eval()
    plain.save_pretrained(tmp_path)
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3)
    assert model.config.image_size == 1024
    pixels = torch.rand(1, 3, 1024, 1024)
    with torch.inference_mode():
        expected, found = plain.get_image_embeddings(pixels), model.get_image_embeddings(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("name", MODELS)
def test_fused_kernels_receive_heads_of_whole_multiples(name, monkeypatch):
    """As accelerators' kernels need them; the result is that of heads of 14 channels."""
    config = base_config(name)
    config["vision_config"] |= TWO_BLOCKS
    torch.manual_seed(0)
    encoder = make_meta_model(config, StepSettings(image_size=256)).sam.vision_encoder
    attention = encoder.layers[0].attn.to_empty(device="cpu").requires_grad_(False)
    for weight in attention.parameters():
        weight.normal_(std=0.05)
    tokens = torch.randn(1, 16, 16, config["vision_config"].get("hidden_size", 768))
    expected = attention(tokens)[0]
    sizes, kernel = set(), F.scaled_dot_product_attention

    def record(query, key, value, *rest, **options):
        sizes.update(one.shape[-1] for one in (query, key, value))
        return kernel(query, key, value, *rest, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    monkeypatch.setattr("samed_hf.model.vision_encoder.runs_in_tiles", lambda _: False)
    found = attention(tokens)[0]
    assert sizes == {{168: 16, 384: 32, 768: 64, 1024: 64, 1280: 80}[tokens.shape[-1]]}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
