"""What "auto" means on which machine, and what it says."""

import logging

import pytest
import torch

from samed_hf import SamedForSemanticSegmentation
from samed_hf.inference import load_model
from samed_hf.model import precision
from samed_hf.model.precision import computes_bfloat16, resolve_dtype


@pytest.fixture
def log(caplog, monkeypatch):
    """The lines logged; transformers' loggers don't pass theirs on unless configured."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    precision.logger.warning_once.cache_clear()
    return caplog


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_depends_on_the_machine_and_is_logged(native, dtype, log, monkeypatch, tiny_adapter):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device=None: native)
    assert resolve_dtype("auto") == dtype
    assert load_model(str(tiny_adapter), dtype="auto").dtype == dtype
    assert SamedForSemanticSegmentation.from_pretrained(tiny_adapter, dtype="auto").dtype == torch.float32
    lines = [record.getMessage() for record in log.records if "dtype auto" in record.getMessage()]
    assert len(lines) == 1
    assert str(dtype).removeprefix("torch.") in lines[0]


@pytest.mark.parametrize(
    ("machine", "avx512", "amx", "onednn", "native"),
    [
        ("x86_64", True, False, True, True),
        ("AMD64", False, True, True, True),
        ("x86_64", False, False, True, False),  # oneDNN emulates it with AVX-512
        ("aarch64", False, False, True, True),
        ("aarch64", False, False, False, False),
    ],
)
def test_processors(machine, avx512, amx, onednn, native, monkeypatch):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert computes_bfloat16("cpu") is native


def test_other_devices_and_names():
    assert not computes_bfloat16("mps")
    assert resolve_dtype(None) is None
    assert resolve_dtype(torch.float16) is torch.float16
    assert resolve_dtype("float32") is torch.float32
    with pytest.raises(ValueError, match="expected auto, float32, bfloat16, float16"):
        resolve_dtype("half")
