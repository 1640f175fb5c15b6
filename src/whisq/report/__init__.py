"""An evaluation as a self-contained HTML page and as tables."""
