"""Metrics: pure functions, one definition each, for training and evaluation alike."""
