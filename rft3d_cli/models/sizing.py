"""The one rule for the size of frames, without the libraries of models: estimates go by it too."""

from __future__ import annotations

PATCHES_WIDE = 37
"""Default width of a frame in patches: 37 × 14 = 518 pixels, VGGT's width, which VG-LLM and 3D-RFT use."""


def frame_size(
    width: int, height: int, frame_width: int, patch: int, merge: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to which a frame is resized, and the size to which it is then cut.

    Args:
        width: Pixels of the source.
        height: Pixels of the source.
        frame_width: Target width.
        patch: Patch side.
        merge: Patches a merged token spans.

    Returns:
        ``(width, height)`` after resizing, and after cutting at the top left. Taller than wide is cut to a square
        about the middle row by :func:`rft3d_cli.models.processor.size_frame`.

    >>> frame_size(1296, 968, 518, 14, 2)
    ((518, 392), (504, 392))
    >>> frame_size(160, 120, 64, 8, 2)
    ((64, 48), (64, 48))
    """
    # The factor first, as VGGT's own code has it: in any other order some heights round to another row of patches.
    resized = (frame_width, max(patch * merge, round(height * (frame_width / width) / patch) * patch))
    factor = patch * merge
    return resized, (resized[0] // factor * factor, min(resized[1], resized[0]) // factor * factor)


def frame_tokens(width: int, height: int, frame_width: int, patch: int, merge: int) -> int:
    """Tokens that a frame becomes; for the arguments see :func:`frame_size`.

    >>> frame_tokens(1296, 968, 518, 14, 2), frame_tokens(1920, 1080, 518, 14, 2), frame_tokens(160, 120, 64, 8, 2)
    (252, 180, 12)
    """
    _, (wide, tall) = frame_size(width, height, frame_width, patch, merge)
    return wide * tall // (patch * merge) ** 2
