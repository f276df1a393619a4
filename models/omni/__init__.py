"""Omni models: one transformer over the tokens of several codecs."""
