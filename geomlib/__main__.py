"""`python -m geomlib` is the `geomlib` command."""

import sys

from geomlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
