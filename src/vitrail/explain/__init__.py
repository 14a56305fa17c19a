"""Vitrail: explain."""
