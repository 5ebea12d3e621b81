"""The synthetic station: real photographs as flat products under five fixed cameras, with exact masks of defects."""

from vsad.data.synth.config import SynthConfig
from vsad.data.synth.generation import TRUTH, synthesize
from vsad.data.synth.nuisances import NUISANCES, parse_nuisances
from vsad.data.synth.product import photograph_names
from vsad.data.synth.protocol import HARD_STATIONS, hard_station

__all__ = [
    "HARD_STATIONS",
    "NUISANCES",
    "TRUTH",
    "SynthConfig",
    "hard_station",
    "parse_nuisances",
    "photograph_names",
    "synthesize",
]
