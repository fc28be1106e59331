"""The names of the ways in which a few frames are chosen from a clip; :mod:`rft3d_cli.video` says what they do.

They stand by themselves so that the command line knows them without importing a decoder.
"""

from __future__ import annotations

from typing import Literal

Sampler = Literal["linspace-floor", "linspace-round", "chunk-center"]
