"""Whisper's forward pass on a ``Model``'s weights: for what no runtime shows."""
