"""Checkpoints that come with the package, a folder each."""

RESEARCH_USE = ("natural-fsq", "natural-fsq-diffusion", "natural-ntc", "natural-rvq", "natural-rvq-diffusion")
"""Checkpoints of the repository that no wheel holds, because their training data allow research use only."""
