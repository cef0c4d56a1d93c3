"""Augmentations: pure functions of a key, equal to what they say pixel by pixel, compiled and
eager.
"""

import numpy as np
import pytest
import torch

from purenets import random
from purenets.torch_nets import augment

KEY = torch.as_tensor(random.key(0))
X = torch.randn(64, 3, 10, 12)
FUNCTIONS = {
    "flip": augment.flip,
    "crop": augment.crop(4),
    "cutout": augment.cutout(5),
    "color_jitter": augment.color_jitter(),
    "chain": augment.chain(augment.flip, augment.crop(2), augment.cutout(4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_key_same_images_other_key_others(name):
    f, before = FUNCTIONS[name], X.clone()
    out = f(KEY, X)
    assert out.shape == X.shape
    assert out.dtype == X.dtype
    assert torch.equal(out, f(KEY, X))
    assert not torch.equal(out, f(random.fold_in(KEY, 1), X))
    assert torch.equal(X, before)


def test_compiled_equals_eager():
    def all_of_them(key, x):
        return [f(key, x) for f in FUNCTIONS.values()]

    compiled = torch.compile(all_of_them, fullgraph=True)(KEY, X)
    for a, b in zip(all_of_them(KEY, X), compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_cuda_equals_the_cpu(name):
    assert torch.allclose(
        FUNCTIONS[name](KEY.cuda(), X.cuda()).cpu(), FUNCTIONS[name](KEY, X), atol=1e-6
    )


def test_flip_mirrors_about_half():
    out = augment.flip(KEY, X)
    same = (out == X).flatten(1).all(1)
    mirrored = (out == X.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_crop_is_a_window_of_the_reflected_image():
    out = augment.crop(4)(KEY, X).numpy()
    padded = np.pad(X.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    moves = set()
    for i in range(len(out)):
        fits = [
            (r, c)
            for r in range(9)
            for c in range(9)
            if np.array_equal(out[i], padded[i, :, r : r + 10, c : c + 12])
        ]
        assert len(fits) == 1
        moves.add(fits[0])
    assert len(moves) > 25
    assert {r for r, _ in moves} == {c for _, c in moves} == set(range(9))


def test_cutout_is_a_square_of_zeros():
    out = augment.cutout(5)(KEY, X.abs() + 1)
    holes = (out == 0).all(dim=1)
    assert ((out == 0) == holes[:, None]).all()
    sizes = {
        tuple(hole.nonzero().amax(0) - hole.nonzero().amin(0) + 1) for hole in holes if hole.any()
    }
    sizes = {(int(h), int(w)) for h, w in sizes}
    assert (5, 5) in sizes
    assert all(h <= 5 and w <= 5 for h, w in sizes)
    for hole in holes:
        (rows, columns) = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns)


def test_alternating_flips_mirror_each_image_every_other_epoch():
    masks = [augment.alternating_flips(KEY, 100, epoch) for epoch in range(4)]
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[0], ~masks[1])
    assert 30 < masks[0].sum() < 70


def test_uint8_images_stay_uint8():
    x = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    for name in ("flip", "crop", "cutout", "chain"):
        assert FUNCTIONS[name](KEY, x).dtype == torch.uint8


def test_augmented_and_mixup_hand_on_what_they_say():
    seen = []

    def grad_fn(params, buffers, batch, key):
        seen.append((*batch, key))
        return {}, (buffers, {})

    y = torch.arange(64) % 4
    augment.augmented(grad_fn, augment.flip)({}, {}, (X, y), KEY)
    x, targets, key = seen.pop()
    assert torch.equal(x, augment.flip(random.fold_in(KEY, 0), X))
    assert targets is y
    assert not torch.equal(key, KEY)
    augment.mixup(grad_fn, 4)({}, {}, (X, y), KEY)
    x, soft, _ = seen.pop()
    assert torch.allclose(soft.sum(1), torch.ones(64))
    share = soft.amax(1).min()
    other = random.permutation(random.fold_in(KEY, 1), 64)
    assert any(torch.allclose(x, X * s + X[other] * (1 - s), atol=1e-5) for s in (share, 1 - share))


def test_alternately_flipped_batches_show_each_image_both_ways_in_two_epochs():
    x = torch.arange(10 * 3 * 2 * 4).view(10, 3, 2, 4)
    draw = augment.alternating_flip_batches((x, torch.arange(10)), 5, random.key(0))
    shown = [dict(zip(y.tolist(), image, strict=True)) for image, y in map(draw, range(4))]
    first, second = shown[0] | shown[1], shown[2] | shown[3]
    for i in range(10):
        assert torch.equal(first[i], second[i].flip(2))
        assert torch.equal(first[i], x[i]) or torch.equal(first[i], x[i].flip(2))
    mirrored = sum(torch.equal(first[i], x[i].flip(2)) for i in range(10))
    assert 0 < mirrored < 10
    assert torch.equal(draw(3)[0], draw(3)[0])
