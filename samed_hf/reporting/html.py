"""HTML reports: one file without scripts, readable offline, in dark mode, on a phone and on paper."""

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ..utils.atomic import write_text
from ..utils.text import printable
from . import formatting

__all__ = ["data_uri", "jpeg_uri", "write_page"]

_FILTERS = ("bytes", "count", "counts", "duration", "ml", "number", "sides", "value")  # formatting.format_…


def write_page(path: str | os.PathLike[str], package: str, template: str, **values: Any) -> None:
    """Render a template of a package's directory `templates`; values are escaped, so that any text is safe.

    The base template and the style sheet are in this package's directory.
    """
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "samed_hf.reporting"))]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals |= {one.__name__: one for one in _FUNCTIONS}
    environment.filters |= {name: getattr(formatting, f"format_{name}") for name in _FILTERS}
    write_text(path, environment.get_template(template).render(values))


def _printable(value: Any) -> Any:
    """Replace characters of a text that can't be printed, except for the narrow spaces of numbers."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return formatting.NARROW_SPACE.join(map(printable, value.split(formatting.NARROW_SPACE)))


def data_uri(content: bytes, media_type: str) -> Markup:
    """Return a file's content as an address for `src`, e.g. with the media type "image/svg+xml"."""
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}")


def jpeg_uri(path: Path) -> Markup:
    """Return an image as the address of a JPEG, which is several times smaller than a PNG."""
    content = io.BytesIO()
    with Image.open(path, formats=("PNG",)) as image:
        image.convert("RGB").save(content, format="JPEG", quality=88)
    return data_uri(content.getvalue(), "image/jpeg")


_FUNCTIONS: list[Callable[..., Any]] = [jpeg_uri, formatting.score_titles]  # of all templates
_FUNCTIONS += [formatting.format_difference, formatting.format_interval, formatting.format_score]
