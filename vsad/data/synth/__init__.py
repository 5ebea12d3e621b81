"""The synthetic station: real photographs as flat products under five fixed cameras, with exact masks of defects."""

from vsad.data.synth.config import SynthConfig
from vsad.data.synth.generation import TRUTH, synthesize
from vsad.data.synth.product import photograph_names

__all__ = ["TRUTH", "SynthConfig", "photograph_names", "synthesize"]
