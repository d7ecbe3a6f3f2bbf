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
from PIL import Image

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
    rows = [[name, amount] for name, amount in result["amounts"].items()]
    table = gr.Dataframe(value=rows or [["nothing found", 0]], headers=["label", result["unit"]])
    return result, slider, overlay(result, first), legend(result), table, result["file"]


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
    names = model.config.id2label
    each, unit = (1.0, "pixels") if volume.is_image else (volume.voxel_ml, "ml")
    counts = {names[int(index)]: int((labels == index).sum()) for index in np.unique(labels) if index}
    amounts = {name: float(f"{count * each:.4g}") for name, count in counts.items()}
    return {"gray": gray, "labels": slices, "names": names, "amounts": amounts, "unit": unit, "file": str(target)}


def overlay(result: dict[str, Any] | None, index: int) -> Image.Image | None:
    """Draw the slice at `index` with its labels in colour, enlarged if it is small."""
    if result is None:
        return None
    labels = result["labels"][index]
    gray = np.repeat(np.clip(result["gray"][index], 0, 1)[..., None], 3, axis=2)
    painted = 0.5 * gray + 0.5 * label_colors(len(result["names"]))[labels]
    image = Image.fromarray((np.where((labels > 0)[..., None], painted, gray) * 255).astype(np.uint8))
    scale = max(1, 512 // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def legend(result: dict[str, Any]) -> str:
    """Return the colours of the labels found, as HTML."""
    colors = (label_colors(len(result["names"])) * 255).astype(int)
    squares = [
        f'<span style="background:rgb({",".join(map(str, colors[index]))});display:inline-block;width:1em;'
        f'height:1em;margin:0 .4em 0 1em;vertical-align:-.1em"></span>{html.escape(name)}'
        for index, name in result["names"].items()
        if name in result["amounts"]
    ]
    return f'<div id="legend">{" ".join(squares) or "nothing found"}</div>'


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
            with gr.Column(scale=2):
                buttons = ["download", "fullscreen"]  # not "share", which publishes the image
                shown = gr.Image(label="Overlay", format="png", height=560, buttons=buttons, elem_id="overlay")
                slider = gr.Slider(0, 1, 0, step=1, label="Slice", visible=False, elem_id="slice")
                colors = gr.HTML()
        button.click(segment, [file, name], [state, slider, shown, colors, table, download])
        slider.change(overlay, [state, slider], shown, show_progress="hidden")
    return page


if __name__ == "__main__":
    fonts = ["system-ui", "sans-serif"]  # system fonts: a page with patient data sends no requests to other hosts
    build(os.environ.get("SAMED_ADAPTER")).launch(
        theme=gr.themes.Default(font=fonts, font_mono=["monospace"]), max_file_size=_LIMITS.bytes
    )
