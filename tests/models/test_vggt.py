from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from vggt_reference import aggregate

from rft3d_cli.models.vggt import MEAN, STD, VGGTAggregator, VGGTEncoder, rope_tables, rotate

SMALL: dict[str, Any] = {
    "img_size": 28,
    "patch_size": 7,
    "num_register_tokens": 3,
    "dino": {"embed_dim": 16, "depth": 2, "num_heads": 4},
    "aggregator": {"embed_dim": 16, "depth": 3, "num_heads": 2},
}


def build(seed: int = 0, **changes: Any) -> VGGTAggregator:
    """With weights that make every part matter: a fresh one's layer scales are nearly silent."""
    torch.manual_seed(seed)
    model = VGGTAggregator(**(SMALL | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("gamma"):
                parameter.uniform_(0.3, 1.0)
            else:
                parameter.normal_(0, 0.3)
    return model


def clips(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> VGGTAggregator:
    return build()


# Structure: the public weights must fit


def public_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of ``facebook/VGGT-1B`` under ``aggregator.``, spelled out from its architecture."""
    d, hidden = 1024, 4096
    shapes: dict[str, tuple[int, ...]] = {
        "camera_token": (1, 2, 1, d),
        "register_token": (1, 2, 4, d),
        "patch_embed.cls_token": (1, 1, d),
        "patch_embed.pos_embed": (1, 1370, d),
        "patch_embed.register_tokens": (1, 4, d),
        "patch_embed.mask_token": (1, d),
        "patch_embed.patch_embed.proj.weight": (d, 3, 14, 14),
        "patch_embed.patch_embed.proj.bias": (d,),
        "patch_embed.norm.weight": (d,),
        "patch_embed.norm.bias": (d,),
    }
    for group in ("patch_embed.blocks", "frame_blocks", "global_blocks"):
        for i in range(24):
            layers = {"norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d)}
            layers |= {"mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
            if group != "patch_embed.blocks":
                layers |= {"attn.q_norm": (64,), "attn.k_norm": (64,)}
            for name, shape in layers.items():
                shapes[f"{group}.{i}.{name}.weight"] = shape
                shapes[f"{group}.{i}.{name}.bias"] = shape[:1]
            shapes |= {f"{group}.{i}.{scale}.gamma": (d,) for scale in ("ls1", "ls2")}
    return shapes


def test_the_default_has_the_names_and_shapes_of_the_public_weights() -> None:
    with torch.device("meta"):
        model = VGGTAggregator()
    state = model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == public_shapes()
    assert len(state) == 1210
    assert sum(tensor.numel() for tensor in state.values()) == 909_112_320
    parts = {"patch_embed.": 304_372_736, "frame_blocks.": 302_364_672, "global_blocks.": 302_364_672}
    assert {p: sum(t.numel() for n, t in state.items() if n.startswith(p)) for p in parts} == parts


def test_a_public_state_dict_loads_strictly(model: VGGTAggregator) -> None:
    other = build(seed=9)
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(clips(1, 2, 3, 21, 28)), model(clips(1, 2, 3, 21, 28)))


# Numbers


@pytest.mark.parametrize("layer", [-2, -1, 0, 1])
@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [
        pytest.param(3, 14, 21, id="three frames"),
        pytest.param(1, 21, 14, id="one frame, upright"),
        pytest.param(2, 28, 28, id="learned size"),
    ],
)
def test_it_is_the_written_out_reference(frames: int, height: int, width: int, layer: int) -> None:
    model = build().double()
    clip = clips(frames, 3, height, width).double()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        out = model(clip[None], layer=layer)[0]
        expected = aggregate(
            clip.numpy(),
            weights,
            patch=7,
            heads=2,
            dino_heads=4,
            dino_depth=2,
            pair=layer % 3,
            positions=lambda rows, columns: resized(weights["patch_embed.pos_embed"], rows, columns),
        )
    # Frames are normalised and positions resized in float32.
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=2e-5)


def resized(learned: Any, rows: int, columns: int) -> Any:
    picture = torch.from_numpy(learned[:, 1:]).float().reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    if (rows, columns) != (4, 4):
        picture = nn.functional.interpolate(picture, (rows, columns), mode="bicubic", antialias=True)
    return picture[0].flatten(1).T.double().numpy()


def test_heads_turn_halves_by_row_and_by_column() -> None:
    cos, sin = rope_tables(2, 3, 1, 8)
    assert cos.shape == sin.shape == (7, 8)
    assert torch.equal(cos[0], torch.ones(8))
    x = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(x[:, None], cos, sin)[:, 0]
    # Places (1, 1) and (1, 3) differ in the column's half alone, and turning keeps lengths.
    assert torch.equal(cos[1, :4], cos[3, :4])
    assert not torch.equal(cos[1, 4:], cos[3, 4:])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    # What two tokens say to each other depends on how far they are apart, not on where they are.
    q = torch.randn(8, generator=torch.Generator().manual_seed(1)).expand(7, -1)
    a, b = (rotate(t[:, None], cos, sin)[:, 0] for t in (q, x[:1].expand(7, -1)))
    torch.testing.assert_close(a[1] @ b[5], a[2] @ b[6])


@torch.no_grad()
def test_clips_of_a_batch_are_apart(model: VGGTAggregator) -> None:
    batch = clips(2, 3, 3, 14, 21)
    alone = torch.cat([model(batch[:1]), model(batch[1:])])
    torch.testing.assert_close(model(batch), alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_frames_and_their_order_matter(model: VGGTAggregator) -> None:
    clip = clips(1, 3, 3, 14, 21)
    out = model(clip)
    assert (model(clip.flip(1)).flip(1) - out).abs().max() > 1e-3
    other = clip.clone()
    other[0, 2] = 0.5
    assert (model(other)[:, :2] - out[:, :2]).abs().max() > 1e-3


@torch.no_grad()
def test_without_gradients_it_is_the_same(model: VGGTAggregator) -> None:
    clip = clips(1, 4, 3, 28, 28)
    with torch.enable_grad():
        expected = model(clip).detach()
    torch.testing.assert_close(model(clip), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(clip), model(clip))


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_stretches_do_not_show(chunk: int, model: VGGTAggregator, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clips(1, 2, 3, 14, 21)
    with torch.no_grad():
        expected = model(clip)
        monkeypatch.setattr("rft3d_cli.models.vggt.STRETCH", chunk)
        torch.testing.assert_close(model(clip), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bfloat16_weights_stay_near(model: VGGTAggregator) -> None:
    low = build().to(torch.bfloat16)
    clip = clips(1, 2, 3, 14, 21)
    out, exact = low(clip), model(clip)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@torch.no_grad()
def test_float32_weights_take_positions_in_float32_under_autocast() -> None:
    model = build()
    tower = model.patch_embed
    clip = clips(2, 3, 14, 21)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = tower._embedded(clip)
        patches = tower.patch_embed((clip - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    assert patches.dtype == torch.bfloat16
    expected = patches.float().flatten(2).transpose(1, 2) + tower.positions(2, 3)
    torch.testing.assert_close(embedded[:, 4:], expected, rtol=0, atol=0)


def test_gradients_reach_every_tensor_that_is_used() -> None:
    model = build()
    model(clips(1, 2, 3, 14, 21), layer=1).square().sum().backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    expected = {n for n, _ in model.named_parameters() if ".2." in n and "patch_embed" not in n}
    assert silent == expected | {"patch_embed.mask_token"}


# Cost


@torch.no_grad()
def test_memory_is_a_fifth_of_keeping_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the full size has: many more tokens than pass a linear layer at a time.
    monkeypatch.setattr("rft3d_cli.models.vggt.STRETCH", 200)
    sizes = {"embed_dim": 64, "num_heads": 4}
    model = build(dino=sizes | {"depth": 2}, aggregator=sizes | {"depth": 24})
    clip = clips(1, 32, 3, 42, 56)
    kept = 24 * 32 * (48 + 4) * 2 * 64 * 4
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        model(clip, layer=-1)
    assert 0 < peak(watch) < kept / 5


def peak(watch: profile) -> int:
    """The most bytes that were allocated at once."""
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))


@torch.no_grad()
def test_only_the_pairs_that_count_are_run(model: VGGTAggregator) -> None:
    ran = []
    handles = [
        m.register_forward_hook(lambda *_, name=n: ran.append(name))
        for n, m in model.named_modules()
        if n.startswith(("frame_blocks.", "global_blocks.")) and n.count(".") == 1
    ]
    model(clips(1, 2, 3, 14, 14), layer=-2)
    for handle in handles:
        handle.remove()
    assert ran == ["frame_blocks.0", "global_blocks.0", "frame_blocks.1", "global_blocks.1"]


# Bad input


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        pytest.param((2, 3, 14, 14), "B, S, 3, H, W", id="no batch"),
        pytest.param((1, 2, 1, 14, 14), "B, S, 3, H, W", id="grey"),
        pytest.param((1, 2, 3, 15, 14), "14 x 15 pixels are not whole patches of 7", id="odd height"),
        pytest.param((1, 0, 3, 14, 14), "0 frames", id="no frames"),
        pytest.param((1, 1, 3, 0, 14), "14 x 0 pixels", id="no rows"),
    ],
)
def test_clips_that_cannot_be_are_refused(shape: tuple[int, ...], said: str, model: VGGTAggregator) -> None:
    with pytest.raises(ValueError, match=said):
        model(torch.zeros(shape))


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused(layer: int, model: VGGTAggregator) -> None:
    with pytest.raises(ValueError, match=f"no layer {layer} among 3"):
        model(clips(1, 1, 3, 14, 14), layer=layer)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"dino": {"embed_dim": 32, "depth": 1, "num_heads": 4}}, "differ", id="two widths"),
        pytest.param({"img_size": 30}, "not a multiple", id="no whole patches"),
        pytest.param({"aggregator": {"embed_dim": 16, "depth": 1, "num_heads": 3}}, "3 heads", id="heads"),
        pytest.param({"aggregator": {"embed_dim": 16, "depth": 1, "num_heads": 8}}, "4 must divide", id="thin heads"),
        pytest.param({"dino": {"embed_dim": 16, "depht": 1, "num_heads": 4}}, "depht", id="misspelled"),
        pytest.param({"dino": {"embed_dim": 16, "depth": 0, "num_heads": 4}}, "no block", id="no blocks"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VGGTAggregator(**(SMALL | changes))


# As a branch


@torch.no_grad()
def test_the_encoder_gives_a_grid(model: VGGTAggregator) -> None:
    encoder = VGGTEncoder(layer=-1, **SMALL).eval()
    encoder.aggregator.load_state_dict(model.state_dict())
    clip = clips(2, 3, 14, 21)
    out = encoder(clip)
    assert out.shape == (2, 2, 3, encoder.output_dim) == (2, 2, 3, 32)
    assert torch.equal(out.flatten(1, 2), model(clip[None], layer=-1)[0])
