"""Vitrail: methods."""
