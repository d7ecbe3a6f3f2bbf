"""`samed-hf watch-dicomweb`: new series of an archive, each segmented once."""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.text import comma_separated, one_line, printable
from .common import add_computing

if TYPE_CHECKING:
    from ..volumes.dicom.web import Archive, ArchivedSeries

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)

_STATE = "watch.json"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("watch-dicomweb", help="segment the new series of a DICOMweb archive, each once")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory of an adapter or an ensemble, or Hub id")
    add("address", metavar="URL", help="the archive, e.g. dicomweb+http://localhost:8042/dicom-web")
    text = f"directory for the segmentations, and for {_STATE}, which lists the series that are done"
    add("--output", type=Path, required=True, metavar="DIR", help=text)
    add("--modality", type=comma_separated, metavar="CT,…", help="only series of these modalities [all]")
    add("--description", metavar="REGEX", help="only series whose description this expression matches [all]")
    add("--interval", type=float, default=30.0, metavar="S", help="seconds between two looks at the archive [30]")
    add("--once", action="store_true", help="segment what is there now, and end")
    add("--store", action="store_true", help="store each segmentation in its study of the archive")
    add("--attempts", type=int, default=3, metavar="N", help="times that a series is tried which fails [3]")
    add_computing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment new series until the process is interrupted, or once.

    Returns:
        0; 1 where series failed in a run with `--once`.
    """
    from ..inference import Segmenter
    from ..volumes.dicom.web import Archive, parse_address

    try:
        description = re.compile(args.description or "", re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"--description is {args.description!r}, which is no regular expression: {error}.") from error
    if args.interval <= 0 or args.attempts < 1:
        raise ValueError(f"--interval is {args.interval} and --attempts {args.attempts}: expected more than 0 of each.")
    url, study, uid = parse_address(args.address)
    if study is not None or uid is not None:
        raise ValueError(f"URL is {args.address!r}: expected the archive's address, without /studies/….")
    archive, state = Archive(url), _State(args.output)
    base = args.base_model_name_or_path
    segmenter = Segmenter.load(args.adapter, dtype=args.dtype, base_model_name_or_path=base, backend=args.backend)
    logger.info("watching    %s", url)

    def matches(series: ArchivedSeries) -> bool:
        wanted = args.modality is None or series.modality in args.modality
        described = description.search(series.description) is not None
        return wanted and described and state.is_open(series, args.attempts, store=args.store)

    def segment(series: ArchivedSeries) -> None:
        _segment(segmenter, archive, series, args, state)

    return _watch(archive, matches, segment, args, state)


def _watch(
    archive: Archive,
    matches: Callable[[ArchivedSeries], bool],
    segment: Callable[[ArchivedSeries], None],
    args: argparse.Namespace,
    state: _State,
) -> int:
    seen: dict[str, int] = {}
    while True:
        try:
            series = [one for one in map(archive.counted, archive.find_series()) if matches(one)]
        except (ConnectionError, FileNotFoundError) as error:  # it may not be ready yet
            if args.once:
                raise
            logger.warning("%s; trying again in %g s", one_line(error), args.interval)
            series = []
        for one in series:
            # A series that is still being sent grows between two looks.
            if args.once or seen.get(one.uid) == one.instances:
                segment(one)
        if args.once:
            return 1 if any(state.entry(one)["status"] == "failed" for one in series) else 0
        seen = {one.uid: one.instances for one in series}
        time.sleep(args.interval)


def _segment(segmenter: Any, archive: Archive, series: ArchivedSeries, args: argparse.Namespace, state: _State) -> None:
    """Fetch, segment and store one series, and note the outcome."""
    from ..inference.batching import describe_failure
    from ..prediction import PredictionSettings, predict_cases
    from ..prediction.archives import discard_download, fetch_series, remove_downloads, store_results
    from ..prediction.files import plan_jobs
    from ..volumes import find_scans

    settings = PredictionSettings(batch_size=args.batch_size)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        download = fetch_series(archive, series, args.output)
        scans = find_scans([download.directory], num_channels=segmenter.processor.num_channels)
        jobs = plan_jobs(scans, args.output, settings, overwrite=True)
        records = predict_cases(segmenter, jobs, args.output, settings, bar=False)
        if args.store:
            store_results(records, [download], args.output)
        remove_downloads(records, [download], args.output)
        errors = [record["error"] for record in records if record["status"] == "failed"]
    except Exception as error:  # of one series, which must not end the others
        errors = [describe_failure(error)]
    for text in errors:
        logger.warning("%s: %s", series.uid, text)
    state.note(series, errors, stored=args.store)
    if errors and state.entry(series)["attempts"] >= args.attempts:  # it isn't tried again
        discard_download(series, args.output)


class _State:
    """The series that are done or failed, in a file that is replaced after each."""

    def __init__(self, output: Path) -> None:
        self.path = output / _STATE
        self.series: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                self.series = json.loads(self.path.read_text(encoding="utf-8"))["series"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{printable(self.path)} is damaged ({one_line(error)}): restore it, or remove it to segment every "
                    "series again."
                ) from error

    def entry(self, series: ArchivedSeries) -> dict[str, Any]:
        """What is known of a series."""
        return self.series.get(series.uid, {"status": "new", "attempts": 0, "instances": 0})

    def is_open(self, series: ArchivedSeries, attempts: int, *, store: bool = False) -> bool:
        """Whether a series is still to be segmented: it is new, has grown, or failed fewer times than `attempts`.

        With `store` also if its segmentation was not stored.
        """
        entry = self.entry(series)
        if entry["status"] == "new" or entry["instances"] != series.instances:
            return True
        if entry["status"] == "done" and store and not entry.get("stored"):
            return True
        return bool(entry["status"] == "failed" and entry["attempts"] < attempts)

    def note(self, series: ArchivedSeries, errors: list[str], *, stored: bool = False) -> None:
        """Write the outcome of a series."""
        from ..utils.atomic import write_text

        entry = self.entry(series)
        grown = entry["instances"] != series.instances
        self.series[series.uid] = {
            "status": "failed" if errors else "done",
            "errors": errors,
            "attempts": 1 if grown else entry["attempts"] + 1,
            "instances": series.instances,
            "stored": stored and not errors,
        }
        write_text(self.path, json.dumps({"series": self.series}, indent=2) + "\n")
