"""VGGT's aggregator once more, in NumPy and float64, a token and a head at a time where it matters.

Written from the paper's and DINOv2's definitions without a look at the module under test. Resized positions are given
as an argument: antialiased bicubic resizing is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Any]
erf = np.vectorize(math.erf)


def layer_norm(x: Array, weights: Weights, name: str, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    spread = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def turned(vector: Array, row: int, column: int) -> Array:
    """One head's query or key at a place of the grid."""
    quarter = len(vector) // 4
    out = np.empty_like(vector)
    for start, place in ((0, row), (2 * quarter, column)):
        for i in range(quarter):
            angle = place * 100.0 ** (-2 * i / (2 * quarter))
            x, y = vector[start + i], vector[start + quarter + i]
            out[start + i] = x * math.cos(angle) - y * math.sin(angle)
            out[start + quarter + i] = y * math.cos(angle) + x * math.sin(angle)
    return out


def attention(x: Array, weights: Weights, name: str, heads: int, places: list[tuple[int, int]] | None) -> Array:
    dim = x.shape[1]
    size = dim // heads
    mixed = linear(x, weights, f"{name}.qkv")
    out = np.empty_like(x)
    for head in range(heads):
        q, k, v = (mixed[:, part * dim + head * size : part * dim + (head + 1) * size] for part in range(3))
        if places is not None:
            q, k = (layer_norm(t, weights, f"{name}.{n}_norm", 1e-5) for t, n in ((q, "q"), (k, "k")))
            q, k = (np.stack([turned(t, *place) for t, place in zip(m, places, strict=True)]) for m in (q, k))
        scores = q @ k.T / math.sqrt(size)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        out[:, head * size : (head + 1) * size] = shares / shares.sum(1, keepdims=True) @ v
    return linear(out, weights, f"{name}.proj")


def block(
    x: Array, weights: Weights, name: str, heads: int, eps: float, places: list[tuple[int, int]] | None = None
) -> Array:
    normed = layer_norm(x, weights, f"{name}.norm1", eps)
    x = x + attention(normed, weights, f"{name}.attn", heads, places) * weights[f"{name}.ls1.gamma"]
    hidden = linear(layer_norm(x, weights, f"{name}.norm2", eps), weights, f"{name}.mlp.fc1")
    hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
    return x + linear(hidden, weights, f"{name}.mlp.fc2") * weights[f"{name}.ls2.gamma"]


def dino(
    frame: Array, weights: Weights, patch: int, heads: int, depth: int, positions: Callable[[int, int], Array]
) -> Array:
    """Patch tokens ``(rows · columns, dim)`` of one normalised frame ``(3, H, W)``."""
    rows, columns = frame.shape[1] // patch, frame.shape[2] // patch
    kernel = weights["patch_embed.patch_embed.proj.weight"]
    tokens = []
    for r in range(rows):
        for c in range(columns):
            window = frame[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            tokens.append((kernel * window).sum((1, 2, 3)) + weights["patch_embed.patch_embed.proj.bias"])
    cls = weights["patch_embed.cls_token"][0] + weights["patch_embed.pos_embed"][0, :1]
    x = np.concatenate([cls, weights["patch_embed.register_tokens"][0], np.stack(tokens) + positions(rows, columns)])
    for i in range(depth):
        x = block(x, weights, f"patch_embed.blocks.{i}", heads, 1e-6)
    return layer_norm(x, weights, "patch_embed.norm", 1e-6)[-rows * columns :]


def aggregate(
    clip: Array,
    weights: Weights,
    *,
    patch: int,
    heads: int,
    dino_heads: int,
    dino_depth: int,
    pair: int,
    positions: Callable[[int, int], Array],
) -> Array:
    """``(S, rows · columns, 2 · dim)`` of one clip ``(S, 3, H, W)`` in [0, 1] after the pair ``pair``."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows, columns = clip.shape[2] // patch, clip.shape[3] // patch
    frames = []
    for index, frame in enumerate(clip):
        normalised = (frame - mean[:, None, None]) / std[:, None, None]
        patches = dino(normalised, weights, patch, dino_heads, dino_depth, positions)
        slot = min(index, 1)
        frames.append(np.concatenate([weights["camera_token"][0, slot], weights["register_token"][0, slot], patches]))
    special = len(frames[0]) - rows * columns
    places = [(0, 0)] * special + [(r + 1, c + 1) for r in range(rows) for c in range(columns)]
    x = np.stack(frames)
    for i in range(pair + 1):
        within = np.stack([block(f, weights, f"frame_blocks.{i}", heads, 1e-5, places) for f in x])
        flat = within.reshape(-1, x.shape[-1])
        x = block(flat, weights, f"global_blocks.{i}", heads, 1e-5, places * len(clip)).reshape(x.shape)
    return np.concatenate([within, x], axis=-1)[:, special:]
