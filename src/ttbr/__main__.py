"""``python -m ttbr``."""

import sys

from ttbr.cli import main

sys.exit(main())
