"""Pictures in, batches out: reading, preprocessing, data sets, augmentation, mixing, and the loader."""

from vitrail.data.cache import PictureCache
from vitrail.data.clip import list_clips, open_clip
from vitrail.data.clip_transform import ClipTransform
from vitrail.data.files import EXTENSIONS, BrokenPicture, list_pictures, printable
from vitrail.data.finish import Finish, Pixels, Sample
from vitrail.data.loader import Loader
from vitrail.data.mixing import Mixing
from vitrail.data.order import Order
from vitrail.data.padding import SizedTransform, pad_collate, pad_to_largest
from vitrail.data.picture import MAX_PIXELS, read_picture, read_pixels, to_pixels
from vitrail.data.placement import Placement
from vitrail.data.preprocess import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess, to_picture
from vitrail.data.reading import Skipped
from vitrail.data.sources import (
    FASHION_CLASSES,
    KNOWN,
    CaptionedSource,
    ClipSource,
    CsvSource,
    DigitsSource,
    ElpvSource,
    FileSource,
    FolderSource,
    HubSource,
    IdxSource,
    Source,
    Splits,
    SubsetSource,
    open_captions,
    open_clips,
    open_data,
    sample_source,
    shots_source,
    split_source,
)
from vitrail.data.text import TextTokenizer
from vitrail.data.transforms import Augment, TrainTransform
from vitrail.data.undecoded import PartTransform, Undecoded
from vitrail.data.views import MultiCrop, MultiCropTransform

__all__ = [
    "EXTENSIONS",
    "FASHION_CLASSES",
    "HALF_MEAN",
    "HALF_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "KNOWN",
    "MAX_PIXELS",
    "Augment",
    "BrokenPicture",
    "CaptionedSource",
    "ClipSource",
    "ClipTransform",
    "CsvSource",
    "DigitsSource",
    "ElpvSource",
    "FileSource",
    "Finish",
    "FolderSource",
    "HubSource",
    "IdxSource",
    "Loader",
    "Mixing",
    "MultiCrop",
    "MultiCropTransform",
    "Order",
    "PartTransform",
    "PictureCache",
    "Pixels",
    "Placement",
    "Preprocess",
    "Sample",
    "SizedTransform",
    "Skipped",
    "Source",
    "Splits",
    "SubsetSource",
    "TextTokenizer",
    "TrainTransform",
    "Undecoded",
    "list_clips",
    "list_pictures",
    "open_captions",
    "open_clip",
    "open_clips",
    "open_data",
    "pad_collate",
    "pad_to_largest",
    "printable",
    "read_picture",
    "read_pixels",
    "sample_source",
    "shots_source",
    "split_source",
    "to_picture",
    "to_pixels",
]
