import pytest
import torch
from transformers import SamModel

from samed_hf.model.initialisation import expect_unit_range, reset_layers, start_as_convolutions
from samed_hf.pretraining import make_small_sam
from samed_hf.pretraining.small_sam import resize_input, use_tiled_attention


@pytest.fixture(scope="module")
def model():
    return make_small_sam(128, seed=2).eval()


@pytest.fixture(scope="module")
def eager(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    model.save_pretrained(directory)
    return SamModel.from_pretrained(directory, attn_implementation="eager").eval()


def test_size(model):
    assert 3e6 < model.num_parameters() < 5e6  # at most 10 MB in float16


def test_heads_begin_at_the_neighbours(eager):
    attentions = eager.vision_encoder(torch.zeros(1, 3, 128, 128), output_attentions=True).attentions
    in_windows, in_all = (attentions[index].reshape(8, -1, attentions[index].shape[-1]) for index in (0, 2))
    middle = 4
    found = [divmod(int(head[16 * middle + middle].argmax()), 16) for head in in_windows]
    expected = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1)]
    assert found == [(middle + row, middle + column) for row, column in expected]
    found = [divmod(int(head[8 * middle + middle].argmax()), 8) for head in in_all]
    assert found == [(middle + 2 * row, middle + 2 * column) for row, column in expected]


def test_the_decoder_begins_at_the_point(eager):
    maps = []
    layer = eager.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    handle = layer.register_forward_hook(lambda module, inputs, output: maps.append(output[1]))
    with torch.no_grad():
        for column, row in ((24, 88), (104, 40)):
            eager(pixel_values=torch.zeros(1, 3, 128, 128), input_points=torch.tensor([[[[column, row]]]]).float())
    handle.remove()
    for weights, (column, row) in zip(maps, ((1, 5), (6, 2)), strict=True):
        weights = weights.reshape(4, -1, 64)[:, 5].mean(0).reshape(8, 8)  # of the point, after IoU and mask tokens
        near = weights[row - 1 : row + 2, column - 1 : column + 2].sum()
        assert near > 0.5  # of nine tokens of 64


def test_frequencies_have_several_scales(model):
    matrix = model.shared_image_embedding.positional_embedding
    assert 0.05 < matrix[:, :12].std() < 0.4
    assert 0.5 < matrix[:, -12:].std() < 1.5
    assert torch.equal(matrix, model.prompt_encoder.shared_embedding.positional_embedding)


def test_the_patch_embedding_normalises(model):
    plain = resize_input(model, 128)
    reset_layers(plain)
    embed = plain.vision_encoder.patch_embed.projection
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = embed((pixels - 0.45) / 0.25)
        expect_unit_range(plain)
        assert torch.allclose(embed(pixels), expected, atol=1e-5)


def test_narrow_heads_are_refused(model):
    wrong = make_small_sam(128)
    wrong.config.vision_config.num_attention_heads = 128
    with pytest.raises(ValueError, match="num_attention_heads is 128"):
        start_as_convolutions(wrong)


def test_tiled_attention_computes_the_same(model):
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    tiled = resize_input(model, 128).eval()
    use_tiled_attention(tiled)
    assert tiled.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        outputs = [one.vision_encoder(pixels).last_hidden_state for one in (model, tiled)]
    assert torch.allclose(*outputs, atol=1e-5)


def test_another_input_size_keeps_windows_and_interpolates_the_rest(model):
    resized = resize_input(model, 256)
    assert resized.vision_encoder.pos_embed.shape == (1, 16, 16, 256)
    before, after = model.vision_encoder.layers, resized.vision_encoder.layers
    assert torch.equal(before[0].attn.rel_pos_h, after[0].attn.rel_pos_h)
    assert (before[2].attn.rel_pos_h.shape, after[2].attn.rel_pos_h.shape) == ((15, 32), (31, 32))
    assert torch.equal(before[0].mlp.lin1.weight, after[0].mlp.lin1.weight)
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert resized.vision_encoder(pixels).last_hidden_state.shape == (1, 96, 16, 16)


def test_seeds(model):
    state = torch.random.get_rng_state()
    same, other = make_small_sam(128, seed=2), make_small_sam(128, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(same.vision_encoder.pos_embed, model.vision_encoder.pos_embed)
    assert not torch.equal(other.vision_encoder.pos_embed, model.vision_encoder.pos_embed)
