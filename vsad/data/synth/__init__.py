"""The synthetic station: real photographs as flat products under five fixed cameras, with exact masks of defects."""

from vsad.data.synth.config import SynthConfig
from vsad.data.synth.generation import TRUTH, synthesize
from vsad.data.synth.nuisances import NUISANCES, parse_nuisances
from vsad.data.synth.product import photograph_names

__all__ = ["NUISANCES", "TRUTH", "SynthConfig", "parse_nuisances", "photograph_names", "synthesize"]
