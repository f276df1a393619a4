"""Evaluation of the shipped model omni-small on the data it was made for: emoji with skin tones and spoken digits."""
