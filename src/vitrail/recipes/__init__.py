"""Vitrail: recipes."""
