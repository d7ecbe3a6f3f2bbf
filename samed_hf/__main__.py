"""`python -m samed_hf`, the same as `samed-hf`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
