"""What every test may ask for is what slipstream ships for everybody's tests: see docs/testing.md."""

import signal

# By name, so that the tests run from a checkout that is not installed, too; pytest takes a plugin once.
pytest_plugins = ["slipstream.testing.pytest_plugin", "pytester"]

# A shell has what it starts in the background ignore Ctrl-C, and so would every process that a test starts and
# interrupts: what is ignored is inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
