import pytest
from matplotlib.figure import Figure
from PIL import Image


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look at what is in it."""
    drawn, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        drawn.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


@pytest.fixture
def is_png():
    """Whether a file is a whole PNG."""

    def check(path):
        with Image.open(path) as image:
            image.load()
            return image.format == "PNG"

    return check
