"""`python -m slipstream.cli` is the `slipstream` command."""

import sys

from slipstream.cli import main

sys.exit(main())
