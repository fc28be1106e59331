"""rft3d: reinforcement fine-tuning of video-language models with verifiable 3D rewards.

The package is a set of independent modules under one command line. Arrows between folders point
down only: ``cli`` → ``commands`` → ``train``, ``benchmarks``, ``prepare``, ``show`` → ``models``,
``rewards`` → ``records``, ``answers``, ``video`` → ``geometry``.
"""

__version__ = "0.1.0"
