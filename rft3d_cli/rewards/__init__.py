"""Verifiable rewards: small pure functions of a completion's text and its record.

>>> from rft3d_cli.rewards import get, names
>>> names("grounding")
['format', 'ground_frame', 'ground_iou', 'ground_near', 'length']
>>> get("det_f1").task
'detection'

To use one in another trainer, take it in TRL's form: ``as_trl("det_f1")``.
"""

from rft3d_cli.rewards.registry import Reward, RewardSet, Score, as_trl, get, load, names, reward

__all__ = ["Reward", "RewardSet", "Score", "as_trl", "get", "load", "names", "reward"]
