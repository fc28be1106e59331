"""The names of the ways in which a few frames are chosen from a clip; :mod:`rft3d_cli.video` says what they do.

They stand by themselves so that the command line knows them without importing a decoder.
"""

from __future__ import annotations

from typing import Literal

Sampler = Literal["linspace-floor", "linspace-round", "chunk-center"]

DEFAULT_FRAMES = 32
DEFAULT_SAMPLER: Sampler = "linspace-floor"
"""How frames are taken of a clip where neither its record nor the recipe says how, or how many."""
