"""Model text → boxes | frame and box | option letter | number, and the writers of target texts.

The readers never raise, never evaluate text, never invent a value, and take time linear in the text. What they leave
out they report, with the reason.
"""

from rft3d_cli.answers.boxes import (
    BoxesAnswer,
    Dropped,
    GroundingAnswer,
    detection_answer,
    grounding_answer,
    read_boxes,
    read_grounding,
)
from rft3d_cli.answers.short import ChoiceAnswer, NumberAnswer, option_letters, read_choice, read_number

__all__ = [
    "BoxesAnswer",
    "ChoiceAnswer",
    "Dropped",
    "GroundingAnswer",
    "NumberAnswer",
    "detection_answer",
    "grounding_answer",
    "option_letters",
    "read_boxes",
    "read_choice",
    "read_grounding",
    "read_number",
]
