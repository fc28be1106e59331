"""Which of the objects that a clip's frames list become targets.

By default all do, as in VG-LLM's data. Annotations say which objects a frame shows, not how much of them: where a
chair's leg reaches into a corner of one picture, the whole chair is to be found. These rules leave such objects out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.geometry.visibility import area_in_view, share_in_view
from rft3d_cli.prepare.embodiedscan import Frame, Scan

NOT_FIRST, OUT_OF_VIEW, TOO_SMALL = "boxes_not_in_first_frame", "boxes_out_of_view", "boxes_too_small"
"""What the report counts."""
LOOSEN = ", or ask less of a target (--in-view, --min-area)"
"""What to try where a rule leaves nothing."""


@dataclass(frozen=True)
class ViewRule:
    """When an object that a clip lists is a target.

    One frame that lists the object must satisfy both limits.

    Args:
        in_view: Least share of the box's volume that lies before the camera and within the picture's borders.
        min_area: Least area that the box's projection covers within the picture's borders, in its pixels².
        first_frame: Whether only the clip's first frame counts.
    """

    in_view: float = 0.0
    min_area: float = 0.0
    first_frame: bool = False

    @property
    def measures(self) -> bool:
        """Whether boxes have to be measured in the pictures."""
        return self.in_view > 0 or self.min_area > 0

    def options(self) -> dict[str, Any]:
        """What the card says of the rule: nothing of one that leaves nothing out."""
        return {name: value for name, value in vars(self).items() if value}


class ViewFilter:
    """A rule applied to the clips of one scan; what a frame has in view of an object is measured once.

    Args:
        rule: The rule.
        scan: The scan, whose cameras are those of the pictures as they are on disk.
        size: ``(width, height)`` of the pictures; needed where the rule measures.
    """

    def __init__(self, rule: ViewRule, scan: Scan, size: tuple[int, int]) -> None:
        self.rule, self.scan, self.size = rule, scan, size
        self._found: dict[tuple[int, int], tuple[bool, bool]] = {}

    def kept(self, frames: Sequence[Frame], objects: Iterable[int]) -> tuple[list[int], Counter[str]]:
        """The objects of a clip that stay, in their order, and how many do not by reason.

        Args:
            frames: The clip.
            objects: Indices of instances that its frames list.
        """
        frames = frames[:1] if self.rule.first_frame else frames
        stay, gone = [], Counter[str]()
        for instance in objects:
            looks = [self.look(frame, instance) for frame in frames if instance in frame.visible]
            if (True, True) in looks:
                stay.append(instance)
            elif not looks:
                gone[NOT_FIRST] += 1
            else:
                gone[TOO_SMALL if any(share for share, _ in looks) else OUT_OF_VIEW] += 1
        return stay, gone

    def look(self, frame: Frame, instance: int) -> tuple[bool, bool]:
        """Whether a frame has enough of an object in view, and whether large enough."""
        if not self.rule.measures:
            return True, True
        key = frame.number, instance
        if key not in self._found:
            pose = self.scan.axis_align @ frame.cam_to_world
            box = transform_boxes(self.scan.instances.boxes[instance], invert_rigid(pose))
            intrinsic = self.scan.intrinsic_of(frame)
            share = self.rule.in_view <= 0 or share_in_view(box, intrinsic, self.size) >= self.rule.in_view
            large = self.rule.min_area <= 0 or area_in_view(box, intrinsic, self.size) >= self.rule.min_area
            self._found[key] = share, large
        return self._found[key]
