"""rooms: synthetic indoor scenes with exact ground truth, in ScanNet's own file formats.

``catalogue`` (furniture) → ``scene`` (a furnished room) → ``path`` (a camera through it) → ``render`` (colour, depth,
instances) → ``language`` (descriptions and questions) → ``write`` (files) → ``build`` (a whole data set).
"""
