"""The tests: a package so that they share `tests.support`, whatever else is installed under this name."""
