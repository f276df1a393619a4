"""Codecs that the user brings: classes named by file and class, and pairs of functions."""
