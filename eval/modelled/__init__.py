"""The transformer behind the modelled rate."""
