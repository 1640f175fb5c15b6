"""Speech with its text: what is calibrated on, and what is judged by."""
