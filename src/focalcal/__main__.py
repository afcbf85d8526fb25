"""Run as `python -m focalcal`."""

import sys

from focalcal.cli import main

if __name__ == "__main__":
    sys.exit(main())
