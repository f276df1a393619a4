"""Metrics of reconstructions and of codes, for training and evaluation. Each metric has one definition."""

from .registry import register

__all__ = ["register"]
