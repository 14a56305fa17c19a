"""Vitrail: vision transformers, the whole path in one package."""

__version__ = "0.1.0"
