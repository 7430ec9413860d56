"""One visitor of the web page: the app, with what the serving process left in the environment."""

import sys

from slipstream.cli.ui.visitor import main

sys.exit(main())
