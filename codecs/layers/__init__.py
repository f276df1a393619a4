"""Norms, activations and blocks that several networks share, and operations that can be exported."""

from .blocks import EPSILON, ChannelNorm, ConvBlock, FeatureMap, GroupNorm, swish

__all__ = ["EPSILON", "ChannelNorm", "ConvBlock", "FeatureMap", "GroupNorm", "swish"]
