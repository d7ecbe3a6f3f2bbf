"""The page's preprocessing in JavaScript, run by Node, against Python's."""

import json
import shutil
import subprocess
from importlib import resources

import nibabel as nib
import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.model.post_processing import resize_logits, upsample_logits
from samed_hf.transforms.slicing import SliceStack, cut_slices, join_slices
from samed_hf.transforms.zoom import spline_zoom
from samed_hf.volumes import read_volume

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node isn't installed: apt-get install nodejs")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A function that runs the body of a script, which knows the functions of core.js as `core`, on an argument."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("core", "correct"):
        shutil.copy(str(resources.files("samed_hf.export") / "browser" / f"{name}.js"), folder / f"{name}.mjs")

    def run(body, argument):
        (folder / "argument.json").write_text(json.dumps(argument))
        script = 'import * as core from "./core.mjs";\nimport {readFileSync} from "node:fs";\n'
        script += 'import * as correct from "./correct.mjs";\n'
        script += 'const given = JSON.parse(readFileSync(new URL("argument.json", import.meta.url)));\n'
        script += "const list = (one) => ArrayBuffer.isView(one) ? [...one] : one;\n"
        script += f"const answer = await (async () => {{ {body} }})();\n"
        script += "console.log(JSON.stringify(answer, (key, value) => list(value)));"
        (folder / "script.mjs").write_text(script)
        found = subprocess.run(["node", folder / "script.mjs"], capture_output=True, text=True, timeout=60)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return run


def test_spline_zoom(node):
    generator = np.random.default_rng(0)
    sizes = [
        ((7, 9), (20, 5)),
        ((1, 8), (6, 6)),
        ((2, 3), (4, 4)),
        ((200, 33), (64, 224)),
        ((48, 48), (48, 64)),
        ((5, 5), (1, 1)),
    ]
    images = [generator.random(size) for size, _ in sizes]
    body = """
        return given.map(({image, size, target}) => core.splineZoom(Float64Array.from(image), ...size, ...target));
    """
    argument = [
        {"image": image.ravel().tolist(), "size": size, "target": target}
        for image, (size, target) in zip(images, sizes, strict=True)
    ]
    for found, image, (_, target) in zip(node(body, argument), images, sizes, strict=True):
        np.testing.assert_allclose(np.reshape(found, target), spline_zoom(image, target), atol=1e-6)


def test_percentiles(node):
    generator = np.random.default_rng(1)
    values = np.concatenate([generator.normal(3, 200, 5000), [-0.0, 0.0, 1e5]]).astype(np.float32)
    body = """return [core.percentiles(Float32Array.from(given), [0, 0.5, 37.21, 99.5, 100]),
        core.percentiles(Int16Array.from(given, Math.round), [0.5, 99.5])];"""
    floats, integers = node(body, values.tolist())
    np.testing.assert_allclose(floats, np.percentile(values.astype(np.float64), [0, 0.5, 37.21, 99.5, 100]), rtol=1e-12)
    np.testing.assert_allclose(
        integers, np.percentile(np.floor(values + 0.5).astype(np.int16), [0.5, 99.5]), rtol=1e-12
    )


@pytest.mark.parametrize("size", [(64, 64), (50, 91), (1, 200)])
def test_labels_of_logits(node, size):
    logits = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 5, 16, 16)).astype(np.float32))
    expected = resize_logits(upsample_logits(logits, 64), size)[0].max(dim=0).indices.numpy()
    body = "return core.labelsOf(Float32Array.from(given.logits), 5, 16, 64, ...given.size);"
    found = node(body, {"logits": logits.ravel().tolist(), "size": size})
    assert np.mean(np.reshape(found, size) == expected) >= 0.9995


CASES = {
    "a CT as stored": ({"intensity_window": (-125, 275)}, None, "int16"),
    "a CT turned": ({"intensity_window": (-125, 275), "orientation": "LPS"}, None, "int16"),
    "another plane": ({"intensity_window": None, "axis_order": (0, 2, 1), "orientation": "RIA"}, None, "float32"),
    "percentiles, scaled": ({"intensity_window": None, "orientation": "LAS"}, (0.5, -7), "int16"),
    "context": ({"intensity_window": (0, 80), "context_slices": True, "orientation": "RAS"}, None, "uint8"),
    "the range": ({"intensity_window": None, "percentiles": None}, None, "uint16"),
    "two channels": (
        {"intensity_window": [(0, 80), None], "channel_names": ["CT", "T1"], "orientation": "LPI"},
        None,
        "float64",
    ),
    "chosen channels": (
        {"intensity_window": None, "channel_names": list("abcd"), "channels": [3, 0, 1]},
        None,
        "int16",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_slices_and_grids(node, tmp_path, name, order):
    settings, scaling, dtype = CASES[name]
    processor = SamedImageProcessor(32, input_size=20, **settings)
    channels = processor.num_channels
    generator = np.random.default_rng(3)
    array = generator.uniform(0, 200, (6, 11, 9, channels)[: 3 if channels == 1 else 4])
    affine = np.array([[0.1, -1.9, 0.3, 5], [0.4, 0.2, 2.9, -6], [-1.2, 0.1, 0.5, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(array.astype(dtype), affine, nib.Nifti1Header(endianness=order))
    image.header.set_data_dtype(dtype)
    if scaling:
        image.header.set_slope_inter(*scaling)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii", num_channels=channels)
    stack = SliceStack(cut_slices(volume, processor), processor)
    expected = processor.resize_slices(stack.read(range(len(stack))))
    expected = np.broadcast_to(expected, (len(stack), 3, 32, 32))
    body = """
        const volume = core.parseNifti(Uint8Array.from(given.bytes)), plan = core.planSlices(volume, given.processor);
        const bounds = core.intensityBounds(volume, given.processor), slices = [];
        const target = new Uint8Array(volume.data.length / volume.channels), pixels = plan.height * plan.width;
        for (let i = 0; i < plan.count; i++) {
            slices.push([...core.slicePixels(volume, plan, i, given.processor, bounds)]);
            core.placeSlice(target, Uint8Array.from({length: pixels}, (_, j) => (i * pixels + j) % 251), plan, i);
        }
        return {slices, bounds, nifti: core.writeNifti(volume, target, true)};
    """
    argument = {
        "bytes": list((tmp_path / "scan.nii").read_bytes()),
        "processor": processor.to_dict() | {"channels": processor.channels},
    }
    found = node(body, argument)
    np.testing.assert_allclose(np.reshape(found["slices"], expected.shape), expected, atol=2e-6)
    (tmp_path / "labels.nii").write_bytes(bytes(found["nifti"]))
    written = nib.load(tmp_path / "labels.nii")
    numbered = np.arange(len(stack) * stack.size[0] * stack.size[1]).reshape(len(stack), *stack.size) % 251
    np.testing.assert_array_equal(np.asarray(written.dataobj), join_slices(numbered, volume, processor))
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-6)
    assert written.get_data_dtype() == np.uint8


def test_a_qform_alone(node, tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), None)
    turn = nib.quaternions.quat2mat([0.8, 0.36, 0.48, 0]) @ np.diag([2, 3, -4.0])
    image.set_qform(nib.affines.from_matvec(turn, [1, 2, 3]), 1)
    nib.save(image, tmp_path / "scan.nii")
    body = "return core.parseNifti(Uint8Array.from(given)).affine;"
    found = node(body, list((tmp_path / "scan.nii").read_bytes()))
    np.testing.assert_allclose(found, nib.load(tmp_path / "scan.nii").affine[:3], atol=1e-6)


def test_nrrd(node, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.random.default_rng(4).integers(-999, 999, (4, 5, 6)).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((1, -2, 3))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    for packed in (False, True):
        sitk.WriteImage(image, str(tmp_path / "scan.nrrd"), packed)
        volume = read_volume(tmp_path / "scan.nrrd")
        body = (
            "const {data, affine, shape} = await core.parseNrrd(Uint8Array.from(given)); return {data, affine, shape};"
        )
        found = node(body, list((tmp_path / "scan.nrrd").read_bytes()))
        np.testing.assert_array_equal(np.reshape(found["data"], found["shape"], order="F"), volume.array)
        np.testing.assert_allclose(found["affine"], volume.affine[:3], atol=1e-9)


@pytest.mark.parametrize("damage", ["short", "nan", "no header", "no axes"])
def test_damaged_files_are_refused(node, damage, tmp_path):
    nib.save(
        nib.Nifti1Image(np.full((3, 4, 5), np.nan if damage == "nan" else 1, np.float32), np.eye(4)), tmp_path / "a.nii"
    )
    content = bytearray((tmp_path / "a.nii").read_bytes())
    if damage == "short":
        content = content[:-7]
    elif damage == "no header":
        content[:4] = b"abcd"
    elif damage == "no axes":
        content[280:328] = bytes(48)
    body = """try { core.parseNifti(Uint8Array.from(given)); return ["", ""]; }
        catch (error) { return [error instanceof core.Refused, error.message]; }"""
    refused, text = node(body, list(content))
    assert refused is True
    assert {"short": "7 bytes", "nan": "NaN", "no header": "no NIfTI", "no axes": "affine"}[damage] in text


def test_strokes_are_undone_and_redone(node):
    generator = np.random.default_rng(6)
    start = generator.integers(0, 4, 6 * 5 * 7)
    ends, axes = generator.integers(0, 5, (12, 2, 3)).tolist(), generator.integers(0, 3, 12).tolist()
    strokes = [{"ends": ends[i], "axis": axes[i], "label": 1 + i % 3, "erase": i % 4 == 3} for i in range(12)]
    body = """
        const labels = Uint8Array.from(given.labels), counts = [0, 0, 0, 0];
        for (const label of labels) counts[label]++;
        // the picture's axes: the third of the array, the first reversed, the second
        const grid = {dims: [7, 6, 5], start: [0, 5, 0], step: [30, -1, 6], mm: [1, 1.5, 2]};
        const edits = new correct.Corrections(labels, grid, counts), states = [], numbers = [];
        const note = (n) => { states.push([...labels]); numbers.push([n, ...counts]); };
        for (const {ends: [from, to], axis, label, erase} of given.strokes) {
            to[axis] = from[axis];
            edits.paint(from, to, axis, {label, erase, diameter: 3});
            note(edits.end());
        }
        while (edits.done.length) note(edits.undo());
        while (edits.undone.length) note(edits.undo(true));
        return {states, numbers};
    """
    found = node(body, {"labels": start.tolist(), "strokes": strokes})
    states = np.array([start, *found["states"]])
    for (changed, *counts), before, after in zip(found["numbers"], states[:-1], states[1:], strict=True):
        assert changed == np.count_nonzero(before != after)
        assert counts == np.bincount(after, minlength=4).tolist()
    effective = np.count_nonzero([number[0] for number in found["numbers"][: len(strokes)]])
    np.testing.assert_array_equal(states[len(strokes) + effective], start)
    np.testing.assert_array_equal(states[-1], states[len(strokes)])
    # One press of a known place: voxel (2, 1, 3) of the picture is (4, 3, 2) of the array; 3 mm across the last axis.
    body = """
        const labels = new Uint8Array(210);
        const grid = {dims: [7, 6, 5], start: [0, 5, 0], step: [30, -1, 6], mm: [1, 1.5, 2]};
        const edits = new correct.Corrections(labels, grid, [210, 0]);
        edits.paint([2, 1, 3], [2, 1, 3], 2, {label: 1, diameter: 3, erase: false});
        return labels;
    """
    array = np.reshape(node(body, {}), (6, 5, 7), order="F")
    assert {tuple(place) for place in np.argwhere(array).tolist()} == {
        (4, 3, 2),
        (4, 3, 1),
        (4, 3, 3),
        (3, 3, 2),
        (5, 3, 2),
    }
