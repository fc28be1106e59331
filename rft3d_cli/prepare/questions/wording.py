"""The sentences: several a kind of question, of which the seed chooses."""

from __future__ import annotations

WORDING: dict[str, tuple[str, ...]] = {
    "object_counting": (
        'How many separate objects in this room go by the name "{a}"?',
        'Count everything in the video that is a "{a}", each object once. What is the total?',
        'Walk through the video from start to end: what number of different objects of the kind "{a}" do you pass?',
        'Someone makes an inventory of this room. Which number belongs behind the entry "{a}"?',
    ),
    "object_abs_distance": (
        "How many meters of free space separate the {a} from the {b} where they come closest to each other?",
        "Take the shortest straight line that joins the {a} and the {b}. How long is it, in meters?",
        "What gap, in meters, lies between the {a} and the {b} at their closest points?",
        "A tape is stretched from the {a} to the {b} along the shortest way through the air. What does it read, in "
        "meters?",
    ),
    "object_size_estimation": (
        "Of the width, the depth and the height of the {a}, take the largest. How many centimeters is it?",
        "The {a} is packed into the tightest box that holds it. How long is the longest edge of that box, in "
        "centimeters?",
        "How many centimeters does the {a} extend along its longest side?",
        "Give the largest of the three dimensions of the {a} in centimeters.",
    ),
    "room_size_estimation": (
        "How many square meters of floor does this room have, counting what furniture stands on?",
        "New carpet is to cover the whole floor that the video shows, from wall to wall. How many square meters are "
        "needed?",
        "Estimate the floor area of the space in the video, in square meters.",
        "What is the area of the floor plan of this space, in square meters?",
    ),
    "object_rel_distance": (
        "The {a} has these around it: {list}. Which one comes nearest to it, between closest points?{several}",
        "Among {list}, which leaves the smallest gap to the {a}?{several}",
        "Measured from surface to surface, which of the following is nearest to the {a}: {list}?{several}",
        "A string is stretched from the {a} to each of these: {list}. Which string is the shortest?{several}",
    ),
    "object_rel_direction_easy": (
        "You stand where the {a} is and look toward the {b}. On which hand is the {c}?",
        "From the place of the {a}, with the {b} straight ahead, on which side do you find the {c}?",
        "Imagine a person at the {a} whose eyes are on the {b}. To which side must they look for the {c}?",
    ),
    "object_rel_direction_medium": (
        "You stand where the {a} is and look toward the {b}. Is the {c} on your left, on your right, or at your back? "
        "It is at your back if you must turn by more than 135 degrees to see it straight ahead.",
        "From the place of the {a}, with the {b} straight ahead, where do you find the {c}? Call it back where it "
        "takes a turn of more than 135 degrees to face it, and left or right otherwise.",
        "Imagine a person at the {a} whose eyes are on the {b}. Which way is the {c} from them: left, right or back, "
        "where back begins at a turn of 135 degrees?",
    ),
    "object_rel_direction_hard": (
        "You stand where the {a} is and look toward the {b}. In which quarter around you is the {c}?",
        "From the place of the {a}, with the {b} straight ahead, which quarter holds the {c}: in front or behind, and "
        "on which side?",
        "Imagine a person at the {a} whose eyes are on the {b}. The floor around them is cut into four quarters, front "
        "and back, left and right. Which one is the {c} in?",
    ),
    "route_planning": (
        "A robot is beside the {a} and faces the {b}. It drives like this: {steps}. It then has arrived at the {end}. "
        "What belongs in the gaps?",
        "Complete the route from the {a} to the {end}. You begin at the {a}, facing the {b}: {steps}.",
        "Somebody stands at the {a}, looking to the {b}, and wants to get to the {end}. Fill in what is left open: "
        "{steps}.",
    ),
    "obj_appearance_order": (
        "The video is played from the beginning. In which order do these come into view for the first time: {list}?",
        "Sort {list} by the moment at which the video first shows one of them.",
        "Which of these lists is in the order in which the video introduces {list}?",
    ),
}
"""Templates by question type; ``a``, ``b`` … are names of objects."""
