"""Norms, activations and blocks that several networks share, and operations whose trace holds for every size."""

from .blocks import EPSILON, ChannelNorm, ConvBlock, FeatureMap, GroupNorm, swish

__all__ = ["EPSILON", "ChannelNorm", "ConvBlock", "FeatureMap", "GroupNorm", "swish"]
