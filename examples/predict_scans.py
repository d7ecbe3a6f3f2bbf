"""Segment scans from Python and print the volume of each organ.

    python examples/predict_scans.py ADAPTER OUTPUT_DIR SCAN...

SCAN is a NIfTI, NRRD, MHA or DICOM file, an image, or a directory of them. ADAPTER is a directory or a Hub id.
"""

import sys
from pathlib import Path

from transformers.utils import logging

from samed_hf.cli import run_command
from samed_hf.inference import Segmenter, measure_labels, segment_volume
from samed_hf.volumes import find_scans, read_scan, write_labels


def main(adapter: str, output_dir: str, *inputs: str) -> None:
    logging.disable_progress_bar()  # the one of loading weights
    output = Path(output_dir)
    segmenter = Segmenter.load([adapter])
    channels = segmenter.processor.num_channels
    scans = find_scans(inputs, num_channels=channels)
    output.mkdir(parents=True, exist_ok=True)
    for scan in scans:
        volume = read_scan(scan, num_channels=channels)
        result = segment_volume(segmenter, volume)  # labels and confidence on the scan's own grid
        path = output / f"{scan.name}{scan.suffix}"
        write_labels(path, result.labels, volume, names=segmenter.id2label)
        print(f"{path}")
        statistics = measure_labels(result.labels, volume, segmenter.id2label, confidence=result.confidence)
        for name, row in statistics.items():
            size = f"{row['pixels']} pixels" if volume.is_image else f"{row['ml']:.2f} ml"
            confidence = "" if row["mean_confidence"] is None else f", confidence {row['mean_confidence']:.2f}"
            print(f"  {name}: {size}{confidence}{', cut off by the border' if row['touches_border'] else ''}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(run_command(lambda: main(*sys.argv[1:])))
