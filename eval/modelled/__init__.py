"""Transformer of the modelled rate."""
