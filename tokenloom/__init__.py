"""tokenloom: every signal becomes integers, every integer has a price in bits."""

__version__ = "0.1.0"
