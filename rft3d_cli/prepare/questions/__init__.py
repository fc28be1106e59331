"""Questions of VSI-Bench's eight kinds about annotated scenes, with answers computed from geometry.

``rules`` holds what an answer is, and how clear it must be; ``world`` and ``floor`` what a scene holds; ``quantities``,
``places`` and ``order`` draw questions; ``wording`` has the sentences; ``recompute`` answers a written record again
from its own metadata.
"""
