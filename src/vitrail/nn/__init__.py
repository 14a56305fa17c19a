"""Vitrail: nn."""
