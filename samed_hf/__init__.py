"""SAMed on the Hugging Face stack: Segment Anything adapted to medical images with LoRA (arXiv 2304.13785).

Importing it registers SAMed with transformers' Auto classes and pipelines.
"""

import sys
from pathlib import Path

import lazy_loader

__version__ = "0.1.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _is_command_line() -> bool:
    """Whether this is the import by which `samed-hf` or `python -m samed_hf` starts."""
    program = sys.argv[0] if sys.argv else ""
    return program == "-m" or Path(program).stem == "samed-hf"


# Registration imports transformers, PyTorch and PEFT, which takes seconds, and raises what a broken one of them raises.
# The command line parses its arguments first, so that `samed-hf --help` answers at once and `samed-hf doctor` works
# where one of them is broken; a command that loads a model imports the same module, and so registers the classes.
if not _is_command_line():
    from .model import modeling_samed  # noqa: F401
