"""Training: one loop, its tasks, adversaries, losses, state and logs."""
