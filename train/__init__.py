"""Training: one loop (loop.py), its tasks (codec.py), losses, state and logs."""
