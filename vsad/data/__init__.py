"""Data: samples of several views, the layouts they are read from, and a synthetic station."""

from typing import TYPE_CHECKING

from vsad.data.grouping import Grouped, group_by_view
from vsad.data.layouts import FORMATS, choose_category, is_data_set, list_categories, missing_categories, open_dataset
from vsad.data.naming import natural_key
from vsad.data.new_samples import Found, new_samples
from vsad.data.sample import GOOD, Cameras, Sample, ViewFile, in_pixels, is_resized
from vsad.data.synth import HARD_STATIONS, SynthConfig, hard_station, photograph_names, synthesize
from vsad.lazy import names_in

if TYPE_CHECKING:
    from vsad.data.dataset import BadSample, MultiViewDataset

__all__ = [
    "FORMATS",
    "GOOD",
    "HARD_STATIONS",
    "BadSample",
    "Cameras",
    "Found",
    "Grouped",
    "MultiViewDataset",
    "Sample",
    "SynthConfig",
    "ViewFile",
    "choose_category",
    "group_by_view",
    "hard_station",
    "in_pixels",
    "is_data_set",
    "is_resized",
    "list_categories",
    "missing_categories",
    "natural_key",
    "new_samples",
    "open_dataset",
    "photograph_names",
    "synthesize",
]

__getattr__ = names_in(__name__, __all__, "dataset")
