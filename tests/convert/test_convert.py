import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import SamConfig, SamModel

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.convert import convert_original, convert_sam, convert_samed
from samed_hf.convert.keys import POSITIONAL_MATRIX, sam_keys, samed_keys

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ("samed", "samed_s")


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The directory of each variant's converted base."""
    directory = tmp_path_factory.mktemp("bases")
    return {v: convert_sam(GOLDEN / v / "sam_tiny.pth", directory / v, decoder_heads=4) for v in VARIANTS}


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """The directory of each variant's converted adapter."""
    directory = tmp_path_factory.mktemp("adapters")
    return {
        v: convert_samed(GOLDEN / v / "samed_tiny_lora.pth", bases[v], directory / v, image_size=128) for v in VARIANTS
    }


def resized(variant, num_masks, rank):
    """The reference checkpoint with other numbers of masks and another rank, filled with random numbers."""
    torch.manual_seed(num_masks * 100 + rank)
    tensors = {}
    for key, tensor in read(GOLDEN / variant / "samed_tiny_lora.pth").items():
        shape = list(tensor.shape)
        network = re.match(r"mask_decoder\.output_hypernetworks_mlps\.(\d+)\.(.*)", key)
        if network and network[1] != "0":
            continue
        if re.match(r"\w+_a_\d+$", key) or key in ("fati_qa", "fati_va"):
            shape[0] = rank
        elif re.match(r"\w+_b_\d+$", key) or key in ("fati_qb", "fati_vb"):
            shape[1] = rank
        elif "mask_tokens" in key or "iou_prediction_head.layers.2" in key:
            shape[0] = num_masks
        copies = range(num_masks) if network else (0,)
        for name in [key.replace("mlps.0.", f"mlps.{index}.") for index in copies]:
            tensors[name] = tensor if key == POSITIONAL_MATRIX else torch.randn(shape)
    names = samed_keys(variant, depth=4, decoder_layers=2, num_masks=num_masks, iou_depth=3)
    assert set(names) == set(tensors)
    return {name: tensors[name] for name in names}


def changed(tmp_path, source, **changes):
    """A copy of a checkpoint with tensors replaced, or taken out (`None`); `__` stands for a dot."""
    tensors = read(source)
    for key, value in changes.items():
        key = key.replace("__", ".")
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    torch.save(tensors, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


# --------------------------------------------------------------------------------------------- Segment Anything


def test_sam_becomes_a_sam_model_with_every_tensor(bases):
    assert sorted(file.name for file in bases["samed"].iterdir()) == ["config.json", "model.safetensors"]
    model, info = SamModel.from_pretrained(bases["samed"], output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tensors = read(GOLDEN / "samed" / "sam_tiny.pth")
    state = model.state_dict()
    for key, name in {
        POSITIONAL_MATRIX: "prompt_encoder.shared_embedding.positional_embedding",
        "image_encoder.blocks.3.attn.qkv.weight": "vision_encoder.layers.3.attn.qkv.weight",
        "image_encoder.neck.2.weight": "vision_encoder.neck.conv2.weight",
        "prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
        "mask_decoder.output_upscaling.1.weight": "mask_decoder.upscale_layer_norm.weight",
        "mask_decoder.iou_prediction_head.layers.1.bias": "mask_decoder.iou_prediction_head.layers.0.bias",
    }.items():
        assert torch.equal(state[name], tensors[key])
    assert sum(p.numel() for p in model.parameters()) == sum(tensor.numel() for tensor in tensors.values())


def test_sam_geometry_is_read_from_the_tensors(bases):
    content = json.loads((bases["samed"] / "config.json").read_text())
    vision, decoder = content["vision_config"], content["mask_decoder_config"]
    expected = json.loads((GOLDEN / "samed" / "geometry.json").read_text())
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "window_size", "patch_size"):
        assert vision[name] == expected[name]
    assert vision["global_attn_indexes"] == expected["global_attn_indexes"]
    assert vision["image_size"] == expected["pretrain_image_size"]
    assert vision["output_channels"] == content["prompt_encoder_config"]["hidden_size"] == expected["prompt_dim"]
    assert decoder["mlp_dim"] == expected["decoder_mlp_dim"]
    assert decoder["num_hidden_layers"] == expected["decoder_layers"]
    assert decoder["iou_head_hidden_dim"] == expected["iou_head_hidden_dim"]
    assert decoder["num_attention_heads"] == expected["decoder_heads"]
    assert (decoder["num_multimask_outputs"], decoder["attention_downsample_rate"]) == (3, 2)
    assert (decoder["layer_norm_eps"], vision["layer_norm_eps"]) == (1e-5, 1e-6)


@pytest.mark.parametrize(
    ("vision", "decoder"),
    [
        ({"num_attention_heads": 3, "patch_size": 8, "window_size": 3, "global_attn_indexes": [0]}, {"mlp_dim": 40}),
        ({"num_attention_heads": 2, "global_attn_indexes": [], "mlp_dim": 50}, {"num_hidden_layers": 3}),
        ({"num_attention_heads": 12, "window_size": 14, "global_attn_indexes": [2]}, {"num_multimask_outputs": 5}),
        (
            {"num_attention_heads": 1, "image_size": 96, "window_size": 2},
            {"iou_head_depth": 4, "num_multimask_outputs": 1},
        ),
    ],
)
def test_other_geometries_are_read_too(tmp_path, vision, decoder):
    vision = {"global_attn_indexes": [1], "image_size": 64, "window_size": 7, "patch_size": 16} | vision
    config = SamConfig(
        vision_config={"hidden_size": 24, "num_hidden_layers": 3, "output_channels": 16, "num_pos_feats": 8} | vision,
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 12,
            "layer_norm_eps": 1e-5,
        }
        | decoder,
    )
    model = SamModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    decoder = config.mask_decoder_config
    counts = (3, decoder.num_hidden_layers, decoder.num_multimask_outputs + 1, decoder.iou_head_depth)
    tensors = {key: model.get_parameter(name) for key, name in sam_keys(*counts).items()}
    torch.save(tensors, tmp_path / "sam.pth")
    converted = SamModel.from_pretrained(convert_sam(tmp_path / "sam.pth", tmp_path / "sam", decoder_heads=2))
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        given, read_back = (getattr(c, part).to_dict() for c in (config, converted.config))
        for name in given.keys() - {"mlp_ratio", "_name_or_path", "dtype", "architectures"}:
            assert read_back[name] == given[name], name
    for name, tensor in model.state_dict().items():
        assert torch.equal(converted.state_dict()[name], tensor), name


@pytest.mark.parametrize("wrap", [lambda t: {"model": t, "epoch": 3}, lambda t: {f"module.{k}": t[k] for k in t}])
def test_sam_wrapped_as_training_scripts_do(tmp_path, bases, wrap):
    tensors = read(GOLDEN / "samed" / "sam_tiny.pth")
    tensors["pixel_mean"] = torch.zeros(3, 1, 1)
    torch.save(wrap(tensors), tmp_path / "wrapped.pth")
    convert_sam(tmp_path / "wrapped.pth", tmp_path / "sam", decoder_heads=4)
    weights = (tmp_path / "sam" / "model.safetensors").read_bytes()
    assert weights == (bases["samed"] / "model.safetensors").read_bytes()


def test_windows_as_large_as_the_grid_need_the_option(tmp_path):
    tensors = read(GOLDEN / "samed" / "sam_tiny.pth")
    for key in [key for key in tensors if ".rel_pos_" in key]:
        tensors[key] = torch.randn(31, 8)
    torch.save(tensors, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="global_attn_indexes"):
        convert_sam(tmp_path / "sam.pth", tmp_path / "sam", decoder_heads=4)
    convert_sam(tmp_path / "sam.pth", tmp_path / "sam", decoder_heads=4, global_attn_indexes=[3, 1])
    vision = SamModel.from_pretrained(tmp_path / "sam").config.vision_config
    assert (list(vision.global_attn_indexes), vision.window_size) == ([1, 3], 16)


@pytest.mark.parametrize("options", [{"decoder_heads": 5}, {"decoder_heads": 4, "global_attn_indexes": [4]}])
def test_options_that_do_not_fit(tmp_path, options):
    with pytest.raises(ValueError, match=list(options)[-1]):
        convert_sam(GOLDEN / "samed" / "sam_tiny.pth", tmp_path / "sam", **options)
    assert not list(tmp_path.iterdir())


def test_sam_names_all_missing_unknown_and_misshapen_tensors(tmp_path):
    path = changed(
        tmp_path,
        GOLDEN / "samed" / "sam_tiny.pth",
        image_encoder__blocks__2__mlp__lin1__bias=None,
        mask_decoder__iou_token__weight=None,
        mask_decoder__iou_tokens__weight=torch.zeros(1, 32),
        prompt_encoder__no_mask_embed__weight=torch.zeros(1, 33),
        image_encoder__blocks__0__attn__rel_pos_h=torch.zeros(8, 8),
    )
    with pytest.raises(ValueError) as error:
        convert_sam(path, tmp_path / "sam", decoder_heads=4)
    message = str(error.value)
    assert "2 missing: image_encoder.blocks.2.mlp.lin1.bias, mask_decoder.iou_token.weight;" in message
    assert "1 unknown: mask_decoder.iou_tokens.weight;" in message
    assert "2 misshapen: image_encoder.blocks.0.attn.rel_pos_h is (8, 8) instead of (9, 8), " in message
    assert "prompt_encoder.no_mask_embed.weight is (1, 33) instead of (1, 32)." in message
    assert "\n" not in message
    assert not (tmp_path / "sam").exists()


@pytest.mark.parametrize(
    "key",
    [
        "image_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.neck.0.weight",
        "mask_decoder.mask_tokens.weight",
        "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight",
    ],
)
@pytest.mark.parametrize("value", [None, torch.zeros(7), torch.zeros(0, 0, 0, 0)])
def test_sam_names_the_tensors_that_tell_its_sizes_too(tmp_path, key, value):
    path = changed(tmp_path, GOLDEN / "samed" / "sam_tiny.pth", **{key: value})
    with pytest.raises(ValueError, match=rf"1 {'missing' if value is None else 'misshapen'}: {re.escape(key)}\b"):
        convert_sam(path, tmp_path / "sam", decoder_heads=4)


# ------------------------------------------------------------------------------------------------------- SAMed


@pytest.mark.parametrize("variant", VARIANTS)
def test_original_comes_back_bit_by_bit(adapters, tmp_path, variant):
    converted = read(convert_original(adapters[variant], tmp_path / "new" / "original.pth"))
    reference = read(GOLDEN / variant / "samed_tiny_lora.pth")
    assert list(converted) == list(reference)
    for key, tensor in reference.items():
        assert converted[key].dtype == tensor.dtype
        assert torch.equal(converted[key], tensor)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["original.pth"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapter_holds_rank_labels_size_and_preprocessing(adapters, variant):
    names = sorted(file.name for file in adapters[variant].iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"]
    model = SamedForSemanticSegmentation.from_pretrained(adapters[variant])
    assert model.config.image_size == 128
    assert model.config.id2label == {0: "background", 1: "class_1", 2: "class_2", 3: "class_3"}
    lora = model.peft_config["default"]
    expected = samed_lora_config(4, variant)
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (4, 4, expected.target_modules)
    processor = SamedImageProcessor.from_pretrained(adapters[variant])
    assert (processor.image_size, processor.input_size, processor.intensity_window) == (128, 224, [-125.0, 275.0])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("num_labels", "rank"), [(2, 1), (3, 16), (5, 2), (9, 5)])
def test_any_number_of_labels_and_rank(bases, tmp_path, variant, num_labels, rank):
    reference = resized(variant, num_labels, rank)
    torch.save(reference, tmp_path / "samed.pth")
    convert_samed(tmp_path / "samed.pth", bases[variant], tmp_path / "adapter", image_size=64, input_size=None)
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert model.peft_config["default"].r == rank
    assert (model.config.id2label[num_labels - 1] == "pancreas") == (num_labels == 9)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, num_labels, 16, 16)
    converted = read(convert_original(tmp_path / "adapter", tmp_path / "original.pth"))
    assert list(converted) == list(reference)
    assert all(torch.equal(converted[key], reference[key]) for key in reference)


def test_labels_are_named(bases, tmp_path):
    source = GOLDEN / "samed" / "samed_tiny_lora.pth"
    convert_samed(source, bases["samed"], tmp_path / "adapter", image_size=128, labels=["liver", "tumour", "vessel"])
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert list(model.config.id2label.values()) == ["background", "liver", "tumour", "vessel"]


@pytest.mark.parametrize("labels", [["liver"], ["background", "liver", "tumour", "vessel"], "abc", ["a", "a", "b"]])
def test_labels_that_do_not_fit(bases, tmp_path, labels):
    source = GOLDEN / "samed" / "samed_tiny_lora.pth"
    with pytest.raises(ValueError, match=r"labels is .*3 names|names a label twice"):
        convert_samed(source, bases["samed"], tmp_path / "adapter", image_size=128, labels=labels)
    assert not (tmp_path / "adapter").exists()


def test_samed_names_all_missing_unknown_and_misshapen_tensors(bases, tmp_path):
    path = changed(
        tmp_path,
        GOLDEN / "samed" / "samed_tiny_lora.pth",
        w_b_003=None,
        w_b_103=torch.zeros(32, 4),
        w_a_000=torch.zeros(2, 32),
        mask_decoder__mask_tokens__weight=torch.zeros(5, 32),
    )
    with pytest.raises(ValueError) as error:
        convert_samed(path, bases["samed"], tmp_path / "adapter", image_size=128)
    message = str(error.value)
    assert "1 missing: w_b_003; 1 unknown: w_b_103; 2 misshapen: w_a_000 is (2, 32) instead of (4, 32), " in message
    assert "mask_decoder.mask_tokens.weight is (5, 32) instead of (4, 32)." in message
    assert not (tmp_path / "adapter").exists()


def test_samed_of_another_base_is_refused(bases, tmp_path):
    for place in (bases["samed_s"], tmp_path / "nothing", GOLDEN / "samed" / "sam_tiny.pth"):
        with pytest.raises((ValueError, FileNotFoundError), match=r"^base is ") as error:
            convert_samed(GOLDEN / "samed" / "samed_tiny_lora.pth", place, tmp_path / "adapter", image_size=128)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "adapter").exists()


def test_an_adapter_is_no_base(adapters, tmp_path):
    with pytest.raises(ValueError, match="base is the adapter"):
        convert_samed(GOLDEN / "samed" / "samed_tiny_lora.pth", adapters["samed"], tmp_path / "a", image_size=128)


def test_each_kind_points_to_its_own_command(bases, tmp_path):
    with pytest.raises(ValueError, match="convert_samed"):
        convert_sam(GOLDEN / "samed" / "samed_tiny_lora.pth", tmp_path / "out")
    with pytest.raises(ValueError, match="convert_sam"):
        convert_samed(GOLDEN / "samed" / "sam_tiny.pth", bases["samed"], tmp_path / "out")


def test_no_folder_of_another_kind_is_overwritten(bases, adapters):
    with pytest.raises(ValueError, match="another kind"):
        convert_sam(GOLDEN / "samed" / "sam_tiny.pth", adapters["samed"], decoder_heads=4)
    with pytest.raises(ValueError, match="another kind"):
        convert_samed(GOLDEN / "samed" / "samed_tiny_lora.pth", bases["samed"], bases["samed"], image_size=128)


# -------------------------------------------------------------------------------------------- files of other kinds


class Payload:
    """What a pickle would run when loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch '{self.target}'",))


def truncated(path, executed):
    path.write_bytes((GOLDEN / "samed" / "sam_tiny.pth").read_bytes()[:100_000])


def empty(path, executed):
    path.write_bytes(b"")


def text(path, executed):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")


def safetensors(path, executed):
    path.write_bytes((GOLDEN / "samed" / "forward.safetensors").read_bytes())


def pickled(path, executed):
    path.write_bytes(pickle.dumps({"w_a_000": Payload(executed)}))


def old_pickle(path, executed):
    path.write_bytes(pickle.dumps({"w_a_000": Payload(executed)}, protocol=2))


def saved_code(path, executed):
    torch.save({"w_a_000": torch.zeros(4, 32), "run": Payload(executed)}, path)


def one_tensor(path, executed):
    torch.save(torch.zeros(3), path)


def integers(path, executed):
    torch.save({"w_a_000": torch.zeros(3, dtype=torch.int64), 5: "text"}, path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (truncated, "cannot be read: it is truncated"),
        (empty, "cannot be read: it is truncated"),
        (text, "cannot be read: it is truncated"),
        (safetensors, "cannot be read: it is truncated"),
        (pickled, "cannot be read: it holds pickled code"),
        (old_pickle, r"cannot be read: it holds pickled code or objects \(posix.system\)"),
        (saved_code, r"cannot be read: it holds pickled code or objects \(posix.system\)"),
        (one_tensor, "holds a Tensor"),
        (integers, "holds entries .*: w_a_000, 5"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(bases, tmp_path, make, reason):
    path, executed = tmp_path / "checkpoint.pth", tmp_path / "executed"
    make(path, executed)
    for convert in (
        lambda: convert_sam(path, tmp_path / "out"),
        lambda: convert_samed(path, bases["samed"], tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match=rf"^checkpoint '.*checkpoint\.pth' {reason}") as error:
            convert()
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_no_checkpoint_there(tmp_path):
    for place in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(FileNotFoundError, match="checkpoint"):
            convert_sam(place, tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- the way back


def saved(bases, directory, config, init=torch.nn.init.normal_):
    model = SamedForSemanticSegmentation.from_pretrained(bases["samed"], image_size=64, num_labels=3)
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            init(parameter)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("options", [{"lora_alpha": 12}, {"use_rslora": True, "lora_alpha": 4}])
def test_a_scaling_is_multiplied_into_b(bases, tmp_path, options):
    adapter = saved(bases, tmp_path / "scaled", samed_lora_config(4, **options))
    convert_original(adapter, tmp_path / "original.pth")
    convert_samed(tmp_path / "original.pth", bases["samed"], tmp_path / "adapter", image_size=64)
    pixel_values = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = SamedForSemanticSegmentation.from_pretrained(adapter)(pixel_values).logits
        converted = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")(pixel_values).logits
    torch.testing.assert_close(converted, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (samed_lora_config(4, use_dora=True), "DoRA|lora_magnitude_vector"),
        (samed_lora_config(4, bias="lora_only"), "biases"),
        (samed_lora_config(4, rank_pattern={"layers.0.attn.q_proj": 2}), "more than one rank"),
        (samed_lora_config(4, target_modules=r".*vision_encoder.*\.q_proj"), "q and v"),
        (samed_lora_config(4, modules_to_save=["vision_encoder.neck"]), "unknown to the original"),
        (LoraConfig(r=4, target_modules=r".*vision_encoder.*\.lin1"), "q and v"),
        (samed_lora_config(4, targets="q,k,v,o"), "q and v"),
        (samed_lora_config(4, encoder="frozen"), "q and v"),
        (samed_lora_config(4, "samed_s", encoder="full"), r"unknown to the original \(.*vision_encoder.* and \d+ more"),
    ],
    ids=["dora", "bias", "ranks", "q", "neck", "mlp", "qkvo", "frozen", "full"],
)
def test_adapters_that_the_original_cannot_express(bases, tmp_path, config, reason):
    adapter = saved(bases, tmp_path / "adapter", config)
    with pytest.raises(ValueError, match=reason) as error:
        convert_original(adapter, tmp_path / "original.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "original.pth").exists()


def test_the_way_back_needs_an_adapter_and_a_name_the_original_loads(bases, adapters, tmp_path):
    with pytest.raises(ValueError, match=r"output is .*\.pth"):
        convert_original(adapters["samed"], tmp_path / "original.bin")
    with pytest.raises(ValueError, match="whole model"):
        convert_original(bases["samed"], tmp_path / "original.pth")
    with pytest.raises(FileNotFoundError, match="adapter"):
        convert_original(tmp_path / "nothing", tmp_path / "original.pth")
    assert not list(tmp_path.iterdir())


def test_an_adapter_whose_base_has_moved(bases, adapters, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in adapters["samed"].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    content = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": "/no/such/base"}))
    with pytest.raises(FileNotFoundError, match="base model"):
        convert_original(moved, tmp_path / "original.pth")
    converted = read(convert_original(moved, tmp_path / "original.pth", base=bases["samed"]))
    assert list(converted) == list(read(GOLDEN / "samed" / "samed_tiny_lora.pth"))
