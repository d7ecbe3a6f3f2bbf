"""A Space that segments images and scans with a SAMed adapter of the Hub.

The environment variable SAMED_ADAPTER or the text field names the adapter. SAMED_MAX_PIXELS, SAMED_MAX_SLICES and the
other variables of `samed_hf.volumes.InputLimits` change the size of what can be uploaded.
"""

from __future__ import annotations

import html
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from samed_hf import SamedForSemanticSegmentation
from samed_hf.inference import Segmenter, load_model, segment_volume
from samed_hf.reporting import label_colors
from samed_hf.transforms import SliceStack, cut_slices, image_bounds, rows_point_up
from samed_hf.volumes import InputLimits, find_scans, read_scan, write_labels

_NOTICE = (
    "# SAMed\nA Segment Anything Model that names the class of every pixel, with an adapter of the Hub. "
    "**A research tool, not a medical device: not for diagnosis or treatment.**"
)
_FORMATS = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
_LIMITS = InputLimits.served()
# The editor's own eraser would take back brush strokes, but not labels; the black brush erases both.
_CSS = "#overlay button[aria-label=Erase] {display: none}"
_NO_WEBGL = (
    "() => document.createElement('canvas').getContext('webgl2') ? '' : '<p role=alert><b>This browser shows no "
    "picture: WebGL is missing or off.</b> Segmenting and downloading the masks work, correcting does not.</p>'"
)
_KEPT = 1800  # seconds for which uploads and results are kept
_models: dict[str, SamedForSemanticSegmentation] = {}
# Gradio keeps uploads and results in this directory; what is left is removed when the program ends.
_files = tempfile.TemporaryDirectory(prefix="samed-")
os.environ["GRADIO_TEMP_DIR"] = _files.name


def load(adapter: str) -> SamedForSemanticSegmentation:
    """Load the model of the adapter of SAMED_ADAPTER or of the Hub; the last one used stays in memory.

    Raises:
        gr.Error: the adapter can't be loaded, or it or its base model is a directory of this machine.
    """
    adapter = adapter.strip()
    is_own = adapter == os.environ.get("SAMED_ADAPTER")
    if not is_own and (not re.fullmatch(r"[\w.-]+/[\w.-]+", adapter) or Path(adapter).exists()):
        raise gr.Error("Name an adapter of the Hub, e.g. user/adapter.")
    if adapter not in _models:
        try:
            model = load_model(adapter)
        except (ValueError, OSError) as error:
            raise gr.Error(f"{adapter} can't be loaded: {str(error).splitlines()[0]}") from error
        bases = [str(one.base_model_name_or_path) for one in getattr(model, "peft_config", {}).values()]
        if not is_own and any(Path(base).exists() for base in bases):
            raise gr.Error(f"{adapter} can't be loaded: its base model isn't on the Hub.")
        _models.clear()
        _models[adapter] = model
    return _models[adapter]


def segment(file: str | None, adapter: str, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
    """Segment the uploaded file and return the values of the page's components.

    Raises:
        gr.Error: the file or the adapter is missing or can't be read.
    """
    if file is None or not file.lower().endswith(_FORMATS):
        raise gr.Error("Upload an image (.png, .jpg) or a scan (.nii, .nii.gz) first.")
    progress(0.1, desc="loading the adapter")
    model = load(adapter)
    progress(0.4, desc="segmenting")
    try:
        result = _segment(model, file)
    except (ValueError, OSError) as error:
        raise gr.Error(f"{Path(file).name} can't be segmented: {str(error).replace(file, Path(file).name)}") from error
    slices = len(result["labels"])
    first = int(np.argmax((result["labels"] > 0).sum(axis=(1, 2))))
    slider = gr.Slider(minimum=0, maximum=max(1, slices - 1), value=first, step=1, visible=slices > 1)
    black, *colors = (
        f"rgb{tuple(color)}" for color in (label_colors(len(result["names"])) * 255).round().astype(int).tolist()
    )
    brush = gr.Brush(colors=[*colors, black], default_color=colors[0], color_mode="fixed")
    editor = gr.ImageEditor(draw(result, first), brush=brush)
    return result, slider, editor, legend(result["names"]), amounts(result), result["file"], None


def _segment(model: SamedForSemanticSegmentation, file: str) -> dict[str, Any]:
    """Segment a file: grey slices and labels `(slices, height, width)`, amounts of the labels, their file."""
    segmenter, scan = Segmenter.of(model), find_scans(file)[0]
    processor = segmenter.processor
    volume = read_scan(scan, num_channels=processor.num_channels, limits=_LIMITS)
    labels = segment_volume(segmenter, volume, limits=_LIMITS).labels
    target = Path(tempfile.mkdtemp(dir=_files.name)) / f"{scan.name}-labels{scan.suffix}"
    write_labels(target, labels, volume)
    gray, slices = (cut_slices(one, processor) for one in (volume, replace(volume, array=labels)))
    gray = SliceStack(gray, processor, bounds=image_bounds(gray, processor) if volume.is_image else None).scaled()
    gray = gray.mean(axis=1) if gray.ndim == 4 and volume.is_image else gray[:, 0] if gray.ndim == 4 else gray
    if rows_point_up(processor) and not volume.is_image:  # flipped to the radiological convention
        gray, slices = gray[:, ::-1], slices[:, ::-1]
    return {
        "gray": gray,
        "labels": slices,  # views of the labels on the scan's grid: what is painted here is written there
        "grid": labels,
        "predicted": labels.copy(),
        "scan": replace(volume, array=np.broadcast_to(np.uint8(0), labels.shape)),  # its grid, without its memory
        "names": model.config.id2label,
        "scale": max(1, 512 // max(slices.shape[1:])),
        "file": str(target),
        "corrected": target.parent / "corrected" / target.name,  # a name that belongs to the image's in a data set
    }


def draw(result: dict[str, Any], index: int) -> dict[str, Any]:
    """Draw the slice at `index` with its labels in colour, enlarged if it is small, and without brush strokes."""
    labels, scale = result["labels"][index], result["scale"]
    gray = np.repeat(np.clip(result["gray"][index], 0, 1)[..., None], 3, axis=2)
    painted = 0.5 * gray + 0.5 * label_colors(len(result["names"]))[labels]
    image = (np.where((labels > 0)[..., None], painted, gray) * 255).astype(np.uint8)
    result["index"], result["drawn"] = index, image.repeat(scale, axis=0).repeat(scale, axis=1)
    return {"background": result["drawn"], "layers": [], "composite": None}


def keep(result: dict[str, Any], editor: dict[str, Any] | None) -> bool:
    """Put the brush strokes into the labels of the slice that is shown, by their colour in the middle of each pixel.

    While a slice is loaded, the editor can still hold the one before, whose strokes are in its labels already: `False`.
    """
    if not editor or not editor["layers"]:
        return True
    if not np.array_equal(editor["background"][..., :3], result["drawn"]):
        return False
    labels, scale = result["labels"][result["index"]], result["scale"]
    colors = (label_colors(len(result["names"])) * 255).round()
    for layer in editor["layers"]:
        stroke = layer[scale // 2 :: scale, scale // 2 :: scale].astype(int)
        distances = np.abs(stroke[..., None, :3] - colors).max(axis=-1)
        known = (stroke[..., 3] > 127) & (distances.min(axis=-1) <= 2)
        labels[known] = distances.argmin(axis=-1)[known]
    return True


def move(result: dict[str, Any] | None, editor: dict[str, Any] | None, index: int) -> Any:
    """Keep the corrections of the slice that is shown, and show another one."""
    if result is None or index == result["index"]:
        return gr.skip()
    keep(result, editor)
    return draw(result, index)


def save(result: dict[str, Any] | None, editor: dict[str, Any] | None) -> tuple[Any, ...]:
    """Write the corrected labels on the scan's grid, and count the voxels that changed.

    Raises:
        gr.Error: nothing is segmented yet, or the editor holds another slice.
    """
    if result is None:
        raise gr.Error("Segment an image or a scan first.")
    if not keep(result, editor):
        raise gr.Error("The editor shows another image than the slice that was sent: wait until it is loaded.")
    result["corrected"].parent.mkdir(exist_ok=True)
    write_labels(result["corrected"], result["grid"], result["scan"])
    changed = int((result["grid"] != result["predicted"]).sum())
    label = f"Corrected labels ({changed} {'pixels' if result['scan'].is_image else 'voxels'} changed)"
    return draw(result, result["index"]), amounts(result), gr.File(str(result["corrected"]), label=label)


def amounts(result: dict[str, Any]) -> gr.Dataframe:
    """Return the table of the labels that are there, in ml or pixels."""
    scan, labels = result["scan"], result["grid"]
    each, unit = (1.0, "pixels") if scan.is_image else (scan.voxel_ml, "ml")
    found = zip(*np.unique(labels[labels > 0], return_counts=True), strict=True)
    rows = [[result["names"][int(index)], float(f"{count * each:.4g}")] for index, count in found]
    return gr.Dataframe(value=rows or [["nothing found", 0]], headers=["label", unit])


def legend(names: dict[int, str]) -> str:
    """Return the colours of the labels, as HTML; black erases."""
    colors = (label_colors(len(names)) * 255).round().astype(int)
    squares = [
        '<span style="display:inline-block;margin-right:1em">'
        f'<span style="background:rgb({",".join(map(str, colors[index]))});display:inline-block;width:1em;'
        f'height:1em;margin-right:.4em;vertical-align:-.1em"></span>{html.escape(name)}</span>'
        for index, name in [*[*names.items()][1:], (0, "erase")]
    ]
    return f'<div id="legend">{" ".join(squares)}</div>'


def build(adapter: str | None = None) -> gr.Blocks:
    """Build the page."""
    with gr.Blocks(title="SAMed", analytics_enabled=False, delete_cache=(60, _KEPT)) as page:
        gr.Markdown(_NOTICE)
        state = gr.State(time_to_live=_KEPT)
        with gr.Row():
            with gr.Column(scale=1):
                name = gr.Textbox(adapter or "", label="Adapter (Hub id)", elem_id="adapter")
                file = gr.File(label=f"Image or scan ({', '.join(_FORMATS)})", type="filepath", elem_id="file")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                table = gr.Dataframe(headers=["label", "amount"], label="Found", interactive=False, elem_id="found")
                download = gr.File(label="Masks", interactive=False, elem_id="masks")
                button_save = gr.Button("Save corrections", elem_id="save")
                corrected = gr.File(label="Corrected labels", interactive=False, elem_id="corrected")
            with gr.Column(scale=2):
                shown = gr.ImageEditor(
                    label="Overlay; paint to correct it",
                    elem_id="overlay",
                    interactive=True,
                    height=560,
                    format="png",  # others change the colours
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(colors=["rgb(0, 0, 0)"], color_mode="fixed"),
                    buttons=["download", "fullscreen"],  # not "share", which publishes the image
                )
                slider = gr.Slider(0, 1, 0, step=1, label="Slice", visible=False, elem_id="slice")
                colors, missing = gr.HTML(), gr.HTML()
        page.load(None, None, missing, js=_NO_WEBGL)
        button.click(segment, [file, name], [state, slider, shown, colors, table, download, corrected])
        slider.change(move, [state, shown, slider], shown, show_progress="hidden")
        button_save.click(save, [state, shown], [shown, table, corrected], show_progress="hidden")
    return page


if __name__ == "__main__":
    fonts = ["system-ui", "sans-serif"]  # system fonts: a page with patient data sends no requests to other hosts
    build(os.environ.get("SAMED_ADAPTER")).launch(
        theme=gr.themes.Default(font=fonts, font_mono=["monospace"]), max_file_size=_LIMITS.bytes, css=_CSS
    )
