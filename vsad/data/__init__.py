"""Data: samples of several views, the layouts they are read from, and a synthetic station."""

from vsad.data.dataset import BadSample, MultiViewDataset
from vsad.data.layouts import FORMATS, is_data_set, list_categories, missing_categories, open_dataset
from vsad.data.sample import GOOD, Cameras, Sample, ViewFile
from vsad.data.synth import HARD_STATIONS, SynthConfig, hard_station, photograph_names, synthesize

__all__ = [
    "FORMATS",
    "GOOD",
    "HARD_STATIONS",
    "BadSample",
    "Cameras",
    "MultiViewDataset",
    "Sample",
    "SynthConfig",
    "ViewFile",
    "hard_station",
    "is_data_set",
    "list_categories",
    "missing_categories",
    "open_dataset",
    "photograph_names",
    "synthesize",
]
