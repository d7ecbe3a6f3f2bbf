"""`python -m samed_hf.cli`, the same as `samed-hf`: what `accelerate launch -m` and torch's launcher start."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
