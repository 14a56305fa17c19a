"""The report of a run: one HTML file that needs nothing else."""

from vitrail.jobs.report.page import write_report
from vitrail.jobs.report.summary import FirstBatch, Headline, Mistake, Moment, RunSummary

__all__ = ["FirstBatch", "Headline", "Mistake", "Moment", "RunSummary", "write_report"]
