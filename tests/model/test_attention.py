"""The encoder's attention: in tiles, by SDPA and by the plain formula it is one and the same, its gradients too."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionLayer

from samed_hf import SamedForSemanticSegmentation, samed_lora_config
from samed_hf.model import attention, vision_encoder
from samed_hf.model.attention import Windows, attend, window_groups
from samed_hf.model.vision_encoder import SamedVisionLayer

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora


def make_layers(grid: int, window_size: int, qkv_bias: bool = True, **settings) -> tuple[nn.Module, nn.Module]:
    """transformers' own block and this package's, with the same random weights."""
    config = SamVisionConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=1,
        mlp_dim=32,
        image_size=16 * grid,
        window_size=window_size,
        qkv_bias=qkv_bias,
        **settings,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = SamVisionLayer(config, window_size)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = copy.deepcopy(config)
    config._attn_implementation = "sdpa"
    ours = SamedVisionLayer(config, window_size)
    state = theirs.state_dict()
    for kind in ("weight", "bias") if qkv_bias else ("weight",):
        for name, part in zip("qkv", state.pop(f"attn.qkv.{kind}").chunk(3), strict=True):
            state[f"attn.{name}_proj.{kind}"] = part
    ours.load_state_dict(state)
    return theirs, ours


def gradients(layer: nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    tokens = tokens.clone().requires_grad_()
    wanted = [tokens, *layer.parameters()]
    torch.manual_seed(1)
    output = layer(tokens)
    found = torch.autograd.grad((output * torch.randn_like(output)).sum(), wanted)
    names = ["tokens", *dict(layer.named_parameters())]
    return [gradient for name, gradient in zip(names, found, strict=True) if "_proj" not in name and "qkv" not in name]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("grid", "window_size"), [(8, 0), (8, 4), (8, 3), (9, 5), (4, 7), (7, 7), (6, 5)], ids=lambda value: str(value)
)
def test_all_implementations_agree_with_transformers(grid, window_size, batch_size, monkeypatch):
    theirs, ours = make_layers(grid, window_size)
    torch.manual_seed(2)
    tokens = torch.randn(batch_size, grid, grid, 24)
    expected, expected_gradients = theirs(tokens), gradients(theirs, tokens)
    ways = {"tiles": ours}
    eager = copy.deepcopy(ours)
    eager.attn.config._attn_implementation = "eager"
    ways["eager"] = eager
    fused = copy.deepcopy(ours)
    fused.attn.fuse_projections()
    ways["fused"] = fused
    for way, layer in [*ways.items(), ("sdpa", ours)]:
        if way == "sdpa":
            monkeypatch.setattr(vision_encoder, "runs_in_tiles", lambda hidden_states: False)
        torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-5)
        for found, wanted in zip(gradients(layer, tokens), expected_gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class Concatenated(nn.Module):
    """Three projections as SAM's single one."""

    def __init__(self, projections: list[nn.Module]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projections)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([projection(tokens) for projection in self.projections], dim=-1)


@pytest.mark.parametrize("implementation", ["tiles", "sdpa", "eager"])
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], lora_bias=True, init_lora_weights=False),
        IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], init_ia3_weights=False),
    ],
    ids=["lora_bias", "IA3"],
)
def test_padded_tokens_are_the_projections_of_zero(config, implementation, monkeypatch):
    theirs, ours = make_layers(grid=8, window_size=3)
    inject_adapter_in_model(config, ours)
    for name, parameter in ours.named_parameters():
        if "lora" in name or "ia3" in name:
            nn.init.normal_(parameter)
    theirs.attn.qkv = Concatenated([getattr(ours.attn, f"{name}_proj") for name in "qkv"])
    if implementation != "tiles":
        ours.attn.config._attn_implementation = implementation
        monkeypatch.setattr(vision_encoder, "runs_in_tiles", lambda hidden_states: False)
    tokens = torch.randn(2, 8, 8, 24)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=2e-4)


def test_offloaded_layers_give_the_same_logits(tiny_model, tmp_path):
    pixel_values = torch.rand(2, 3, TINY_SIZE, TINY_SIZE)
    with torch.inference_mode():
        expected = tiny_model(pixel_values).logits
        for offload in (cpu_offload, lambda model, **options: disk_offload(model, tmp_path, **options)):
            model = offload(copy.deepcopy(tiny_model), execution_device=torch.device("cpu"))
            assert torch.equal(model(pixel_values).logits, expected)


@pytest.mark.parametrize("settings", [{"qkv_bias": False}, {"use_rel_pos": False}])
def test_models_without_biases_or_relative_positions(settings):
    theirs, ours = make_layers(6, 4, **settings)
    tokens = torch.randn(2, 6, 6, 24)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=2e-4)


def test_the_tile_size_changes_only_rounding(monkeypatch):
    torch.manual_seed(0)
    shapes = [(5, 6, 4), (5, 12, 4), (5, 12, 4), (5, 6, 3), (5, 6, 4)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    arriving = torch.randn(5, 6, 4, dtype=torch.float64)
    results = []
    for size in (1, 12 * 8, 2 * 12 * 8, 6 * 12 * 8, 13 * 12 * 8, 2**20):  # below a row of scores, to all at once
        monkeypatch.setattr(attention, "_TILE_BYTES", size)
        context = attend(*tensors)
        results.append([context, *torch.autograd.grad(context, tensors, arriving)])
    query, key, value, rows, columns = tensors
    bias = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
    context = nn.functional.scaled_dot_product_attention(query[None], key[None], value[None], bias[None])[0]
    expected = [context, *torch.autograd.grad(context, tensors, arriving)]
    for result in results:
        for found, wanted in zip(result, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    shapes = [(2, 3, 4), (2, 6, 4), (2, 6, 4), (2, 3, 2), (2, 3, 3)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(attend, tensors)


def test_the_workspace_of_inference_can_be_used_in_training():
    shapes = [(2, 3, 4), (2, 6, 4), (2, 6, 4), (2, 3, 2), (2, 3, 3)]
    with torch.inference_mode():
        attend(*(torch.randn(shape) for shape in shapes))
    attend(*(torch.randn(shape, requires_grad=True) for shape in shapes)).sum().backward()


def test_windows_are_grouped_by_size():
    assert window_groups(8, 8, 4) == [[Windows((0, 8), (0, 8), 4, 4)]]
    assert window_groups(5, 9, 4) == [
        [Windows((0, 4), (0, 8), 4, 4), Windows((0, 4), (8, 9), 4, 1)],
        [Windows((4, 5), (0, 8), 1, 4), Windows((4, 5), (8, 9), 1, 1)],
    ]
    assert window_groups(3, 3, 7) == [[Windows((0, 3), (0, 3), 3, 3)]]


@pytest.mark.slow
def test_the_encoder_compiles_as_one_graph(tiny_model):
    encoder = tiny_model.eval().sam.vision_encoder
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        found, expected = compiled(pixels).last_hidden_state, encoder(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_adapted_encoder_compiles_as_one_graph(tiny_model):
    tiny_model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(tiny_model)
    encoder = tiny_model.eval().sam.vision_encoder
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels)[0], encoder(pixels)[0], rtol=1e-5, atol=1e-5)


def test_merging_fuses_and_adding_an_adapter_splits_the_projections(tiny_model):
    tiny_model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(tiny_model)
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        expected = tiny_model.eval()(pixels).logits
        merged = tiny_model.merge_and_unload()
        attentions = [layer.attn for layer in merged.sam.vision_encoder.layers]
        assert all(hasattr(one, "qkv") and not hasattr(one, "q_proj") for one in attentions)
        torch.testing.assert_close(merged(pixels).logits, expected, rtol=0, atol=1e-5)
        merged.add_adapter(samed_lora_config(rank=2))
        assert all(hasattr(one, "q_proj") and not hasattr(one, "qkv") for one in attentions)
        torch.testing.assert_close(merged.eval()(pixels).logits, expected, rtol=0, atol=1e-5)


def test_only_the_encoder_has_half_precision(tiny_adapter):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    decoder = [p for name, p in model.named_parameters() if "mask_decoder" in name or "prompt_encoder" in name]
    assert {parameter.dtype for parameter in decoder} == {torch.float32}
    exact = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    pixels = torch.rand(2, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        found, expected = model(pixels).logits, exact(pixels).logits
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * (expected.max() - expected.min())
    assert len(TINY_LABELS) == found.shape[1]
