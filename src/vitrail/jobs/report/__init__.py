"""The report of a run: one HTML file that needs nothing else."""

from vitrail.jobs.report.page import write_report
from vitrail.jobs.report.summary import ClassScore, Comparison, FirstBatch, Headline, Mistake, RunSummary

__all__ = ["ClassScore", "Comparison", "FirstBatch", "Headline", "Mistake", "RunSummary", "write_report"]
