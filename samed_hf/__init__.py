"""SAMed on the Hugging Face stack: Segment Anything adapted to medical images with LoRA (arXiv 2304.13785).

With it, importing transformers registers SAMed with transformers' Auto classes and pipelines.
"""

import importlib
import sys
import threading
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lazy_loader

__version__ = "0.1.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Registration(threading.local):
    """Registers the classes after the first import of transformers or `samed_hf.model`.

    Registration imports PyTorch and PEFT, which takes seconds; an exported model ([`OnnxSegmenter`]) runs without them.
    """

    active = False  # in this thread

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        # PEFT and Accelerate import transformers, and have to be complete before the model imports them.
        if name not in ("transformers", "peft", "accelerate", f"{__name__}.model"):
            return None
        finders = (one.find_spec for one in sys.meta_path if one is not self)
        spec = next((found for find in finders if (found := find(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                outermost, self.active = not self.active, True
                try:
                    execute(module)
                    if outermost:
                        _register(required=name.startswith(__name__))
                finally:
                    self.active = not outermost

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(*, required: bool) -> None:
    if required or ("transformers" in sys.modules and find_spec("torch") and find_spec("peft")):
        importlib.import_module(f"{__name__}.model.modeling_samed")


def _is_command_line() -> bool:
    """Whether this is the import by which `samed-hf` or `python -m samed_hf` starts."""
    program = sys.argv[0] if sys.argv else ""
    return program == "-m" or Path(program).stem == "samed-hf"


# A command that loads a model imports its module, and so registers the classes; `samed-hf doctor` has to work where a
# package is broken.
if not _is_command_line():
    if "transformers" in sys.modules:
        _register(required=False)
    elif not any(type(finder).__module__ == __name__ for finder in sys.meta_path):  # importlib.reload
        sys.meta_path.insert(0, _Registration())
