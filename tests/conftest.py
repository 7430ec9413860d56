"""What every test may ask for is what slipstream ships for everybody's tests: see docs/testing.md."""

# By name, so that the tests run from a checkout that is not installed, too; pytest takes a plugin once.
pytest_plugins = ["slipstream.testing.pytest_plugin", "pytester"]
