"""What quantizing cost, measured by transcribing with real runtimes."""
