"""Metrics of reconstructions and codes, for training and evaluation: pure functions, one definition each."""
