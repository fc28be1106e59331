"""One small record of each task, to try a reward, a reader or a scorer on."""

from __future__ import annotations

from typing import Any

from rft3d_cli.errors import UsageError
from rft3d_cli.records import Record

_STILL = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
# The second camera stands half a metre to the right of the first, seen along its own axes.
_ASIDE = [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

_RECORDS: dict[str, dict[str, Any]] = {
    "detection": {
        "prompt": "Detect the chairs and tables.",
        "target": {
            "boxes": [
                {"label": "chair", "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]},
                {"label": "table", "bbox_3d": [2, 0, 3, 2, 1, 1, 0, 0, 0]},
            ]
        },
    },
    "grounding": {
        "prompt": "Find the chair beside the table.",
        "target": {
            "frame": 1,
            "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0],
            "bbox_world": [0.5, 0, 2, 1, 1, 1, 0, 0, 0],
        },
        "camera": {
            "intrinsic": [[300, 0, 160], [0, 300, 120], [0, 0, 1]],
            "image_size": [320, 240],
            "cam_to_world": [_STILL, _ASIDE],
            "axis_align": _STILL,
        },
    },
    "choice": {
        "prompt": "Which is closer to the door? A. chair B. table",
        "target": {"letter": "B", "options": ["A. chair", "B. table"]},
        "meta": {"question_type": "object_rel_distance"},
    },
    "number": {
        "prompt": "How far apart are the chair and the table, in metres?",
        "target": {"value": 2.5},
        "meta": {"question_type": "object_abs_distance"},
    },
    "text": {"prompt": "Describe the room.", "target": {"references": ["A chair and a table."]}},
}


def example_record(task: str) -> Record:
    """A small record of a task: two frames, and at most two objects of one or two metres.

    Args:
        task: ``detection``, ``grounding``, ``choice``, ``number`` or ``text``.

    Raises:
        UsageError: On another task.

    >>> example_record("number").target.value
    2.5
    """
    if task not in _RECORDS:
        raise UsageError(f"no example of task {task!r}", f"tasks: {', '.join(_RECORDS)}")
    record = {"id": f"example-{task}", "task": task, "video": {"frames": ["0.jpg", "1.jpg"]}, **_RECORDS[task]}
    return Record.model_validate(record)
