"""A program that attacks whisq for as long as it is given: `python -m tests.campaign`."""
