"""Vitrail: heads."""
