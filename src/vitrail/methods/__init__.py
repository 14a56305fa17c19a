"""Objectives: one paper, one file."""

from vitrail.methods.classify import Classify

__all__ = ["Classify"]
