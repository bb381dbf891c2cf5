"""`python -m c2fcore`: the `c2f` command, for launchers such as torchrun."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
