"""Augmentations: pure functions of a key, equal to what they say pixel by pixel, compiled and
eager.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from purenets import UserError, random
from purenets.torch_nets import MLP, augment, grad_fn

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


@pytest.mark.parametrize("padding", [9, 10, 11, 12, 30])
def test_crop_reflects_as_often_as_it_must(padding):
    moves = random.randint(KEY, (2, len(X)), -padding, padding + 1)
    padded = np.pad(
        X.numpy(), ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="reflect"
    )
    out = augment.crop(padding)(KEY, X).numpy()
    for image, whole, (down, right) in zip(out, padded, moves.T, strict=True):
        top, left = padding + int(down), padding + int(right)
        assert np.array_equal(image, whole[:, top : top + 10, left : left + 12])
    assert torch.equal(augment.crop(padding)(KEY, X[:, :, :1, :1]), X[:, :, :1, :1])


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
    assert torch.equal(draw(np.int8(126))[0], draw(126)[0])  # no overflow


def test_color_jitter_is_one_factor_and_one_offset_for_each_image():
    out = augment.color_jitter(brightness=0.3, contrast=0.5)(KEY, X).numpy()
    factors, offsets = [], []
    for image, before in zip(out, X.numpy(), strict=True):
        factor, offset = np.polyfit(before.ravel(), image.ravel(), 1)
        np.testing.assert_allclose(image, factor * before + offset, atol=1e-5)
        factors.append(factor)
        offsets.append(offset)
    for values, middle, reach in ((factors, 1, 0.5), (offsets, 0, 0.3)):
        assert min(values) >= middle - reach
        assert max(values) <= middle + reach
        assert max(values) - min(values) > 1.6 * reach  # of 2, by 64 draws
    assert abs(np.corrcoef(factors, offsets)[0, 1]) < 0.4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_color_jitter_refuses_integers(dtype):
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"color_jitter: images are {found}, needs floating point"):
        augment.color_jitter()(KEY, X.to(dtype))


@pytest.mark.parametrize("name", ["flip", "crop", "cutout", "color_jitter"])
@pytest.mark.parametrize("x", [torch.zeros(3, 4, 4), torch.zeros(4, 4), [[1.0]]])
def test_images_of_other_axes_are_named(name, x):
    with pytest.raises(
        UserError, match=rf"{name}: images are .*, needs a tensor \(batch, C, H, W\)"
    ):
        FUNCTIONS[name](KEY, x)


@pytest.mark.parametrize("name", ["flip", "crop", "cutout"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("batch", [1, 64])
def test_integer_images_move_as_floating_point_ones(name, dtype, batch):
    x = (X[:batch] * 30).to(dtype)
    found = FUNCTIONS[name](KEY, x)
    assert found.dtype == dtype
    assert torch.equal(found.double(), FUNCTIONS[name](KEY, x.double()))


def test_resized_images_are_those_of_pillow():
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    small = augment.resized(x, 26)
    assert small.dtype == torch.uint8
    for image, before in zip(small, x, strict=True):
        expected = Image.fromarray(before.permute(1, 2, 0).numpy())
        expected = np.asarray(expected.resize((26, 26), Image.Resampling.BILINEAR))
        difference = image.permute(1, 2, 0).numpy().astype(int) - expected.astype(int)
        assert np.abs(difference).max() <= 1  # both round, Pillow twice


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_resized_images_of_floating_point_stay_so(dtype):
    x = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = augment.resized(x.to(dtype), 8)
    assert small.dtype == dtype
    of_bytes = augment.resized((255 * x).round().to(torch.uint8), 8)
    assert (small.double() - of_bytes / 255).abs().max() < (0.02 if dtype.itemsize == 2 else 0.005)
    with pytest.raises(UserError, match="resized: images are int64, needs uint8 or floating"):
        augment.resized(x.long(), 8)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_the_shares_of_mixup_are_drawn_from_beta(alpha):
    draw = augment.symmetric_beta(alpha)
    shares = np.array([float(draw(random.fold_in(KEY, i))) for i in range(2000)])
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert float(draw(KEY)) == float(draw(KEY))
    compiled = torch.compile(draw, fullgraph=True)(KEY)
    assert abs(float(compiled) - float(draw(KEY))) < 1e-12


@pytest.mark.parametrize("alpha", [1e-3, 1e-5, 1e-9])
def test_shares_of_a_small_alpha_are_0_or_1(alpha):
    """As Beta(alpha, alpha) nearly always is; 1/2 was drawn where powers vanished."""
    draw = augment.symmetric_beta(alpha)
    shares = np.array([float(draw(random.fold_in(KEY, i))) for i in range(300)])
    assert np.mean(np.minimum(shares, 1 - shares) < 1e-3) > 0.97
    assert 0.4 < shares.mean() < 0.6


def test_mixup_mixes_by_the_drawn_share():
    seen = []

    def grad_fn(params, buffers, batch, key):
        seen.append(batch)
        return {}, (buffers, {})

    y = torch.arange(64) % 4
    augment.mixup(grad_fn, 4, alpha=0.8)({}, {}, (X, y), KEY)
    share = augment.symmetric_beta(0.8)(random.fold_in(KEY, 0)).float()
    other = random.permutation(random.fold_in(KEY, 1), 64)
    x, soft = seen.pop()
    torch.testing.assert_close(x, share * X + (1 - share) * X[other])
    labels = torch.nn.functional.one_hot(y, 4).float()
    torch.testing.assert_close(soft, share * labels + (1 - share) * labels[other])


def test_a_share_that_cannot_be_drawn_is_named():
    with pytest.raises(UserError, match="alpha: 2 is not above 0 and at most 1"):
        augment.mixup(grad_fn(MLP(2, [], 4)), 4, alpha=2)


def test_augmented_batches_are_the_same_for_whoever_asks():
    x, y = X, torch.arange(64)
    draw = augment.augmented_batches(lambda step: (x, y), augment.crop(2), random.key(3))
    assert torch.equal(draw(5)[0], draw(5)[0])
    assert not torch.equal(draw(5)[0], draw(6)[0])
    key = random.fold_in(torch.as_tensor(random.key(3)), 5)
    assert torch.equal(draw(5)[0], augment.crop(2)(key, x))
    assert draw(5)[1] is y


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.bool])
def test_mixup_takes_class_numbers_of_any_integer_dtype(dtype):
    net, (x, y) = MLP(5, [], 4), (random.normal(KEY, (8, 5)), torch.arange(8) % 2)
    mixed = augment.mixup(grad_fn(net), 4)
    params, _ = net.init(KEY)
    assert mixed(params, {}, (x, y.to(dtype)), KEY)[1] == mixed(params, {}, (x, y), KEY)[1]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(2, 5), torch.tensor([0, 4]), "target 4 is none of the classes 0 to 3"),
        (torch.zeros(2, 5), torch.tensor([0, -1]), "target -1 is none of the classes 0 to 3"),
        (torch.zeros(2, 5), torch.eye(4)[:2], "targets are float32 .*needs class numbers .batch,."),
        (torch.zeros(2, 5), torch.eye(4).long()[:2], "targets are int64 of shape .2, 4., needs"),
        (torch.zeros(2, 5), np.array([0, 1]), "targets are a ndarray, needs tensors"),
        (torch.zeros(2, 5).byte(), torch.tensor([0, 1]), "inputs are uint8 .*with_input_transform"),
        ((torch.zeros(2, 5),), torch.tensor([0, 1]), "inputs are a tuple, needs a tensor"),
    ],
)
def test_what_cannot_be_mixed_is_named(inputs, targets, message):
    net = MLP(5, [], 4)
    with pytest.raises(UserError, match=message):
        augment.mixup(grad_fn(net), 4)(net.init(KEY)[0], {}, (inputs, targets), KEY)


def test_batches_of_all_images_alternate_too():
    data = X[:4], torch.arange(4)
    whole = augment.alternating_flip_batches(data, 0, KEY)
    assert torch.equal(whole(1)[0], whole(0)[0].flip(3))
    assert torch.equal(whole(2)[0], whole(0)[0])
