from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli._video_plan import plan_spans
from rft3d_cli.video import SAMPLERS, sample_indices


@given(count=st.integers(1, 20_000), frames=st.integers(1, 256))
@settings(max_examples=200, deadline=None)
def test_linspace_samplers_are_numpys_linspace(count: int, frames: int) -> None:
    spread = np.linspace(0, count - 1, frames)
    assert sample_indices(count, frames, "linspace-floor") == spread.astype(int).tolist()
    assert sample_indices(count, frames, "linspace-round") == spread.round().astype(int).tolist()


@given(
    count=st.integers(1, 5000),
    frames=st.integers(1, 200),
    sampler=st.sampled_from(SAMPLERS),
    fps=st.floats(0.01, 1000),
    start=st.floats(-10, 1e4),
)
@settings(max_examples=200, deadline=None)
def test_every_sampler_stays_in_order_and_in_range(
    count: int, frames: int, sampler: str, fps: float, start: float
) -> None:
    chosen = sample_indices(count, frames, sampler, times=[start + n / 30 for n in range(count)], fps=fps)
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] < count
    assert 1 <= len(chosen) <= frames
    assert sampler == "fps" or len(chosen) == frames


@given(count=st.integers(1, 5000), frames=st.integers(2, 200))
@settings(max_examples=100, deadline=None)
def test_linspace_takes_both_ends(count: int, frames: int) -> None:
    for sampler in ("linspace-floor", "linspace-round"):
        chosen = sample_indices(count, frames, sampler)
        assert (chosen[0], chosen[-1]) == (0, count - 1)


@given(count=st.integers(1, 5000), frames=st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_chunk_center_takes_the_middle_of_each_part(count: int, frames: int) -> None:
    for part, index in enumerate(sample_indices(count, frames, "chunk-center")):
        middle = (Fraction(part) + Fraction(1, 2)) * count / frames
        assert index <= middle < index + 1


@pytest.mark.parametrize(("frames", "differ"), [(16, 7), (32, 15), (64, 28)])
def test_rounding_and_flooring_differ_as_measured_between_harnesses(frames: int, differ: int) -> None:
    floor = sample_indices(1800, frames, "linspace-floor")
    rounded = sample_indices(1800, frames, "linspace-round")
    assert sum(a != b for a, b in zip(floor, rounded, strict=True)) == differ


STEADY = [n / 30 for n in range(300)]
MILLISECONDS = [round(n / 30, 3) for n in range(300)]


@pytest.mark.parametrize(
    ("sampler", "count", "frames", "times", "fps", "expected"),
    [
        pytest.param("linspace-floor", 10, 4, None, None, [0, 3, 6, 9], id="floor"),
        pytest.param("linspace-floor", 9, 4, None, None, [0, 2, 5, 8], id="floor rounds down"),
        pytest.param("linspace-round", 9, 4, None, None, [0, 3, 5, 8], id="round to the nearest"),
        pytest.param("linspace-floor", 100, 1, None, None, [0], id="one frame is the first"),
        pytest.param("chunk-center", 100, 1, None, None, [50], id="one chunk's centre"),
        pytest.param("linspace-floor", 3, 8, None, None, [0, 0, 0, 0, 1, 1, 1, 2], id="short clip repeats"),
        pytest.param("chunk-center", 3, 6, None, None, [0, 0, 1, 1, 2, 2], id="short clip repeats evenly"),
        pytest.param("linspace-round", 1, 4, None, None, [0, 0, 0, 0], id="single frame repeats"),
        pytest.param("fps", 300, 32, STEADY, None, list(range(0, 300, 30)), id="one a second by default"),
        pytest.param("fps", 300, 32, STEADY, 0.5, [0, 60, 120, 180, 240], id="one in two seconds"),
        pytest.param("fps", 300, 64, MILLISECONDS, 3, list(range(0, 300, 10)), id="times rounded to milliseconds"),
        pytest.param("fps", 300, 4, STEADY, 1, [0, 90, 180, 270], id="thinned out"),
        pytest.param("fps", 300, 32, [t + 100 for t in STEADY], 1, list(range(0, 300, 30)), id="late start"),
        pytest.param("fps", 4, 32, [0.0, 0.1, 0.2, 3.0], 1, [0, 2, 3, 3], id="varying rate takes the nearest"),
        pytest.param("fps", 1, 32, [5.0], 1, [0], id="single frame"),
        pytest.param("fps", 3, 4, [0.0, 0.1, 0.2], 1e9, [0, 1, 1, 2], id="absurd rate stays bounded"),
    ],
)
def test_samplers_choose(sampler, count, frames, times, fps, expected) -> None:
    assert sample_indices(count, frames, sampler, times=times, fps=fps) == expected


@pytest.mark.parametrize("times", [None, [0.0]])
def test_the_clock_needs_a_time_for_each_frame(times) -> None:
    with pytest.raises(ValueError, match="time of each frame"):
        sample_indices(3, 2, "fps", times=times)


def test_an_empty_clip_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="without frames"):
        sample_indices(0, 2, "linspace-floor")


@st.composite
def packets(draw: st.DrawFn) -> tuple[list[int], list[bool], list[int]]:
    count = draw(st.integers(1, 30))
    pts = list(range(count))
    for start in range(0, count, 4):
        pts[start : start + 4] = draw(st.permutations(pts[start : start + 4]))
    key = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return pts, key, draw(st.lists(st.sampled_from(pts), unique=True, min_size=1))


@given(packets())
@settings(max_examples=100, deadline=None)
def test_spans_hold_each_wanted_packet_and_a_key_packet_that_leads_to_it(case) -> None:
    pts, key, wanted = case
    spans = plan_spans(pts, key, wanted)
    for (_, end), (start, _) in pairwise(spans):
        assert start > end + 1
    for time in wanted:
        place = pts.index(time)
        (start,) = [start for start, end in spans if start <= place <= end]
        assert start == 0 or key[start]
        leads = [n for n in range(place + 1) if key[n] and pts[n] <= time]
        assert start <= (leads[-1] if leads else 0)
