"""Molecular language models: an encoder of SMILES tokens, pretrained on masked tokens."""

from geomlib.models.mist.encoder import Encoder, first_token, mean_token
from geomlib.models.mist.presets import PRESETS

__all__ = ["PRESETS", "Encoder", "first_token", "mean_token"]
