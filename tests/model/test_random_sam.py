import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

from samed_hf.model.random_sam import make_random_sam

SMALL = {"image_size": 64, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "embedding_size": 16}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_random_sam(tmp_path_factory.mktemp("random") / "sam", **SMALL, seed=3)


@pytest.fixture(scope="module")
def model(directory):
    return SamModel.from_pretrained(directory).eval()


def test_it_is_a_whole_transformers_checkpoint(directory):
    model, info = SamModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    config = model.config
    assert (config.vision_config.image_size, config.prompt_encoder_config.image_size) == (64, 64)
    assert (config.vision_config.hidden_size, config.vision_config.num_attention_heads) == (16, 2)
    assert model.vision_encoder.pos_embed.shape == (1, 4, 4, 16)
    assert len(model.vision_encoder.layers) == 2


@pytest.mark.parametrize(("num_layers", "globals_"), [(1, [0]), (2, [1]), (4, [1, 3]), (5, [1, 3, 4])])
def test_global_attention_in_every_second_block_and_the_last(tmp_path, num_layers, globals_):
    model = SamModel.from_pretrained(make_random_sam(tmp_path / "sam", **(SMALL | {"num_layers": num_layers})))
    assert model.config.vision_config.global_attn_indexes == globals_
    # A global block has a position for each of 2 · 4 - 1 distances, one with windows of 7 for each of 2 · 7 - 1.
    distances = [7 if index in globals_ else 13 for index in range(num_layers)]
    assert [len(layer.attn.rel_pos_h) for layer in model.vision_encoder.layers] == distances


def test_only_the_seed_matters_and_torchs_state_is_unchanged(directory, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = (
        load_file(make_random_sam(tmp_path / str(s), **SMALL, seed=s) / "model.safetensors") for s in (3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    first = load_file(directory / "model.safetensors")
    assert list(first) == list(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    weight = "vision_encoder.layers.0.attn.qkv.weight"
    assert not torch.equal(first[weight], other[weight])


def test_layers_have_pytorchs_initialisation(model):
    # Uniform within one over the root of the number of inputs: 16 for a linear layer of the encoder's width.
    largest = model.vision_encoder.layers[0].mlp.lin1.weight.abs().max().item()
    assert 0.9 / 4 < largest <= 1 / 4


def test_patches_keep_their_detail(model):
    # Grey enters as three equal channels: together they see a patch through orthonormal filters.
    filters = model.vision_encoder.patch_embed.projection.weight.sum(1).flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(16), atol=1e-5, rtol=0)


def test_the_tables_of_positions_are_not_zero(model):
    tables = {n: p for n, p in model.vision_encoder.named_parameters() if "pos" in n.rpartition(".")[2]}
    assert {name.rpartition(".")[2] for name in tables} == {"pos_embed", "rel_pos_h", "rel_pos_w"}
    for name, table in tables.items():
        assert table.std().item() == pytest.approx(0.1, abs=0.03), name


def test_embeddings_differ_between_images_and_positions(model):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = model.get_image_embeddings(images)
        grey = model.get_image_embeddings(torch.full((1, 3, 64, 64), 0.5))[0]
    assert one.shape == (16, 4, 4)
    assert (one - two).std() > 0.1 * one.std()
    assert grey.flatten(1).std(dim=1).mean() > 0.1 * grey.std()


def test_bad_sizes_leave_no_directory(tmp_path):
    with pytest.raises(
        ValueError, match=r"image_size is 100.*num_layers is 0.*hidden_size is 15.*embedding_size is 10"
    ):
        make_random_sam(tmp_path / "sam", image_size=100, num_layers=0, hidden_size=15, num_heads=2, embedding_size=10)
    assert not (tmp_path / "sam").exists()
