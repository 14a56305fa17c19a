"""Data sets: where pictures and labels come from."""

from vitrail.data.sources.base import Source, SubsetSource
from vitrail.data.sources.builtin import DigitsSource, ElpvSource
from vitrail.data.sources.captions import CaptionedSource, open_captions
from vitrail.data.sources.clips import ClipSource, open_clips
from vitrail.data.sources.folder import FileSource, FolderSource
from vitrail.data.sources.hub import HubSource
from vitrail.data.sources.idx import FASHION_CLASSES, IdxSource
from vitrail.data.sources.opening import KNOWN, Splits, open_data, sample_source, shots_source, split_source
from vitrail.data.sources.table import CsvSource

__all__ = [
    "FASHION_CLASSES",
    "KNOWN",
    "CaptionedSource",
    "ClipSource",
    "CsvSource",
    "DigitsSource",
    "ElpvSource",
    "FileSource",
    "FolderSource",
    "HubSource",
    "IdxSource",
    "Source",
    "Splits",
    "SubsetSource",
    "open_captions",
    "open_clips",
    "open_data",
    "sample_source",
    "shots_source",
    "split_source",
]
