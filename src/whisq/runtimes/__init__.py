"""The runtimes that people load model files in: which takes what, and how each is run."""
