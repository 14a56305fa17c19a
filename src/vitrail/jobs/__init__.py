"""Vitrail: jobs."""
