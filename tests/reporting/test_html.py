import base64
import io

import pytest
from jinja2 import UndefinedError
from PIL import Image

from samed_hf.reporting.html import data_uri, jpeg_uri, write_page

VALUES = {"title": "<b>\n\udcff", "subtitle": "a & b"}


def test_a_page_is_escaped_printable_and_holds_the_style_sheet(tmp_path):
    write_page(tmp_path / "a.html", "samed_hf.reporting", "base.html.j2", **VALUES)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;\\n\\udcff</h1>" in text
    assert "a &amp; b" in text
    assert "prefers-color-scheme: dark" in text
    assert "<link" not in text


def test_a_missing_value_is_an_error_and_leaves_the_old_page(tmp_path):
    (tmp_path / "a.html").write_text("old")
    with pytest.raises(UndefinedError, match="subtitle"):
        write_page(tmp_path / "a.html", "samed_hf.reporting", "base.html.j2", title="a")
    assert (tmp_path / "a.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_images_are_part_of_the_page(tmp_path):
    Image.new("RGBA", (30, 20), (200, 30, 30, 255)).save(tmp_path / "a.png")
    kind, _, content = jpeg_uri(tmp_path / "a.png").partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (30, 20))
    assert data_uri(b"<svg>", "image/svg+xml") == "data:image/svg+xml;base64,PHN2Zz4="
