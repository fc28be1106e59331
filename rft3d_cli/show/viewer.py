"""The page of answers: a clip's frames beside a 3D view that turns, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.geometry.boxes import EDGES, Boxes3D, Floats
from rft3d_cli.show.inspect_page import STYLE
from rft3d_cli.show.viewer_answers import Row, answers, hexadecimal, on_light, one_line, rows_of
from rft3d_cli.show.viewer_pictures import Pictures, pictures
from rft3d_cli.show.viewer_world import FACES, World, frusta, lay_out, projections, spread

SCRIPTS = ("viewer_geometry.js", "viewer_paint.js", "viewer.js", "viewer_hands.js")
"""The page's script, in the order in which its parts build on each other."""
PATH_POINTS = 300
"""Of the camera's path, at most."""


@dataclass(frozen=True)
class Said:
    """A question about the clip, and its answer.

    Args:
        question: As it was asked.
        words: The answer, as lines of text.
        frame: Index, among the frames shown, of the frame whose camera the boxes are in.
        boxes: In that frame's camera coordinates; may be empty.
    """

    question: str
    words: Sequence[str]
    frame: int
    boxes: Boxes3D


@dataclass(frozen=True)
class Scene:
    """What the page shows.

    Args:
        title: Such as the video's name.
        images: ``(H, W, 3)`` RGB, of one size: the frames shown to the model.
        times: Seconds of each.
        intrinsic: ``(3, 3)`` for the images' size.
        poses: ``(frames, 4, 4)`` camera to world of the frames shown, metres; None where unknown. A frame whose pose
            holds a number that is not finite has none.
        path: ``(n, 4, 4)`` every known pose of the video.
        camera: Where the camera comes from, in words.
        note: What the reader must know; may be empty.
        said: Questions and answers, in order.
        assumed: Whether the field of view is a guess, so that every distance is one too.
        numbers: What each frame is called: its number in the video. Where empty, they are counted from 0.
    """

    title: str
    images: Sequence[NDArray[np.uint8]]
    times: Sequence[float]
    intrinsic: Floats
    poses: Floats | None
    path: Floats | None
    camera: str
    note: str
    said: Sequence[Said]
    assumed: bool = False
    numbers: Sequence[int] = ()

    def name(self, index: int) -> str:
        """What a frame is called, in answers as in pictures."""
        return str(self.numbers[index] if self.numbers else index)


def page(scene: Scene) -> str:
    """The page of a clip and what was said about it.

    Args:
        scene: At least one frame, and frames, times and poses of one number.

    Returns:
        HTML with pictures and script inside; nothing is loaded from anywhere.

    Raises:
        ValueError: If the parts do not fit together.
    """
    _check(scene)
    world = lay_out(len(scene.images), scene.poses, scene.path, [(said.frame, said.boxes) for said in scene.said])
    shown = pictures(scene.images, keep=[said.frame for said in scene.said])
    rows = [rows_of(said, at if len(scene.said) > 1 else None) for at, said in enumerate(scene.said)]
    script = "\n".join(["'use strict';", *map(_asset, SCRIPTS)])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # Only this very script runs, and only inline pictures load, even if some text were not escaped.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{one_line(scene.title)}</title><style>{STYLE}{_asset('viewer.css')}</style></head><body>",
        f"<header><h1>{one_line(scene.title)}</h1>",
        *_lead(scene, shown),
        "</header><main>",
        '<noscript><p class="note">The 3D view needs JavaScript; the frames and the answers do without.</p></noscript>',
        '<div class="views">',
        _frames(scene, shown),
        _view(world),
        "</div>",
        *answers(scene.said, rows),
        '</main><p id="spoken" class="unseen" role="status" aria-live="polite"></p>',
        f'<script type="application/json" id="scene">{_json(_data(scene, world, shown, rows))}</script>',
        f"<script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _check(scene: Scene) -> None:
    count = len(scene.images)
    if not count:
        raise ValueError("a page needs at least one frame")
    if len(scene.times) != count or (scene.poses is not None and len(scene.poses) != count):
        raise ValueError(f"{count} frames need as many times, and as many poses where they are known")
    if scene.numbers and len(scene.numbers) != count:
        raise ValueError(f"{count} frames have {len(scene.numbers)} numbers")
    if any(image.shape != scene.images[0].shape for image in scene.images):
        raise ValueError("the frames differ in size")
    if any(not 0 <= said.frame < count for said in scene.said):
        raise ValueError(f"an answer names a frame that is not among the {count}")


def _asset(name: str) -> str:
    return files("rft3d_cli.show").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    r"""JSON that cannot end the element it stands in: ASCII, without ``<``, ``>`` and ``&``.

    >>> _json({"label": "</script>"})
    '{"label":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _lead(scene: Scene, shown: Pictures) -> list[str]:
    """What the clip is, and how far its camera is known."""
    count = len(scene.images)
    frames = f"{count:,} {'frame' if count == 1 else 'frames'}"
    if len(scene.times) > 1:
        frames += f", {scene.times[0]:.1f} to {scene.times[-1]:.1f} s"
    if len(shown.kept) < count:
        frames += f"; {len(shown.kept)} of them are shown here"
    degrees = np.degrees(np.arctan2(scene.images[0].shape[1] / 2, scene.intrinsic[0, 0]) * 2)
    facts = [scene.camera] if scene.camera else []
    if "field of view" not in scene.camera:
        facts.append(f"field of view {degrees:.0f}°")
    camera = f"<b>Camera</b> {one_line('; '.join(facts))}."
    guess = " Every distance and size on this page rests on that guess."
    return [
        f'<p class="faint">{frames}</p>',
        f'<p class="note">{camera}{guess}</p>' if scene.assumed else f'<p class="faint">{camera}</p>',
        f'<p class="note">{one_line(scene.note)}</p>' if scene.note else "",
    ]


def _frames(scene: Scene, shown: Pictures) -> str:
    ratio = shown.size[0] / shown.size[1]
    strip = []
    for at, (index, source) in enumerate(zip(shown.kept, shown.sources, strict=True)):
        words = f"frame {scene.name(index)}, {scene.times[index]:.2f} s"
        strip.append(
            f'<button type="button" class="thumb" data-frame="{at}" tabindex="-1" aria-label="{words}">'
            f'<img src="{source}" alt="" width="{shown.size[0]}" height="{shown.size[1]}">'
            f"<span>{scene.name(index)}</span></button>"
        )
    last = len(shown.kept) - 1
    steps = [
        f'<div class="bar{"" if last else " only"}">',
        '<button type="button" id="prev" aria-label="frame before" title="frame before ( , )">‹</button>',
        '<button type="button" id="play" aria-label="play" aria-pressed="false" title="play">▶</button>',
        '<button type="button" id="next" aria-label="frame after" title="frame after ( . )">›</button>',
        f'<input type="range" id="step" min="0" max="{last}" value="0" aria-label="frame"></div>',
    ]
    return "\n".join(
        [
            '<section class="panel" aria-labelledby="h-frames">',
            '<div class="head"><h2 id="h-frames">Frames</h2><output id="when" class="faint"></output></div>',
            f'<div class="stage" style="--ratio: {ratio:.5f}">',
            '<canvas id="frame" tabindex="0" role="img"></canvas></div>',
            *steps,
            f'<div class="strip{"" if last else " only"}">{"".join(strip)}</div>',
            "</section>",
        ]
    )


def _view(world: World) -> str:
    return "\n".join(
        [
            '<section class="panel" aria-labelledby="h-view">',
            '<div class="head"><h2 id="h-view">In 3D</h2><div class="tools">',
            '<button type="button" data-look="top" title="from above (t)">top</button>',
            '<button type="button" data-look="side" title="from the side (s)">side</button>',
            '<button type="button" data-look="camera" title="from the camera (c)">camera</button>',
            '<button type="button" data-look="reset" title="as at the start (r)">reset</button>',
            '<button type="button" data-look="out" aria-label="zoom out" title="zoom out (-)">−</button>',
            '<button type="button" data-look="in" aria-label="zoom in" title="zoom in (+)">+</button></div></div>',
            '<div class="space"><canvas id="view" tabindex="0" role="application" aria-label="3D view of the boxes" '
            'aria-describedby="hint"></canvas></div>',
            '<p class="faint" id="hint">Drag turns, wheel or pinch zooms, right or shift drag moves. '
            "Keys: arrows, + − and t, s, c, r.</p>",
            f'<p class="faint">Grid: squares of <span id="cell"></span>, {one_line(world.floor_words)}.</p>',
            f"<p>{one_line(world.note)}</p>" if world.note else "",
            "</section>",
        ]
    )


def _data(scene: Scene, world: World, shown: Pictures, rows: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """What the script draws. Its coordinates are the display's: metres, z up; it projects and nothing else."""
    place = {index: at for at, index in enumerate(shown.kept)}
    intrinsic = shown.scaled(scene.intrinsic)
    boxes = []
    for question, (said, corners) in enumerate(zip(scene.said, world.corners, strict=True)):
        for row, points in zip(rows[question], corners, strict=True):
            boxes.append(
                {
                    "name": row.name,
                    "tag": row.tag,
                    "facts": row.facts,
                    "question": question,
                    "frame": place[said.frame],
                    "colour": hexadecimal(row.colour),
                    "ink": hexadecimal(on_light(row.colour)),
                    "corners": _rounded(points, 5),
                }
            )
    poses = world.poses[shown.kept]
    cameras = zip(projections(poses), frusta(poses, shown.size, intrinsic, world.frustum), strict=True)
    return {
        "size": list(shown.size),
        "intrinsic": _rounded(intrinsic, 6),
        "frames": [
            {
                "name": f"frame {scene.name(index)}",
                "time": f"{scene.times[index]:.2f} s",
                "camera": _rounded(camera, 9) if np.isfinite(camera).all() else None,
                "frustum": _rounded(pyramid, 4) if np.isfinite(pyramid).all() else None,
            }
            for index, (camera, pyramid) in zip(shown.kept, cameras, strict=True)
        ],
        "path": [_rounded(piece, 4) for piece in spread(world.path, PATH_POINTS)],
        "posed": world.posed,
        "boxes": boxes,
        "answered": [place[said.frame] if len(said.boxes) else None for said in scene.said],
        "edges": [list(edge) for edge in EDGES],
        "faces": [list(face) for face in FACES],
        "floor": world.floor,
        "axes": _rounded(world.turn.T, 6),
        "azimuth": round(world.azimuth, 4),
    }


def _rounded(values: Floats, decimals: int) -> Any:
    return (np.round(np.asarray(values, dtype=np.float64), decimals) + 0.0).tolist()
