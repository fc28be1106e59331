"""Single frames: image files read, and images brought to a size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rft3d_cli import _video_plan as plan
from rft3d_cli.errors import DataError

IMAGE_FORMATS = ("JPEG", "PNG")
"""What a frame may be. Pillow knows many more, and hands some of them to programs outside."""

Image = npt.NDArray[np.uint8]


def read_image(file: Path) -> Image:
    """A JPEG or PNG file as ``(H, W, 3)`` RGB, uint8, turned as the file says.

    Raises:
        DataError: Where the file cannot be read, is of another kind, or is too large.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow's own warning about large images: the check below says it better.
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            image = Pillow.open(file, formats=IMAGE_FORMATS)
        with image:
            plan.check_size(file, *image.size)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Pillow.DecompressionBombError:
        raise DataError(f"{file} has more than {plan.MAX_PIXELS} pixels", "scale it down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "permission denied" if isinstance(error, PermissionError) else "it is damaged or of another kind"
        raise DataError(f"{file} cannot be read as an image: {reason}") from None


def resized(image: Image, size: tuple[int, int] | None) -> Image:
    """An image at a size, by bicubic interpolation; itself where it has that size or none is asked for."""
    from PIL import Image as Pillow

    if size is None or image.shape[1::-1] == size:
        return image
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BICUBIC))
