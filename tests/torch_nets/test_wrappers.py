import torch

from purenets import random
from purenets.torch_nets import CNN, grad_fn, precision, tta
from purenets.torch_nets.precision import VARIANTS, autotune, variants_for

MODEL = CNN(3, 10, width=1 / 16)
PARAMS, BUFFERS = MODEL.init(random.key(0))
BATCH = torch.randn(8, 3, 16, 16), torch.arange(8) % 10


def test_channels_last_gives_the_same_numbers():
    a, b = (
        grad_fn(model)(PARAMS, BUFFERS, BATCH, None)[0] for model in (MODEL, precision.channels_last(MODEL))
    )
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_cast_computes_in_bfloat16_and_keeps_float32_params():
    grads, (new, metrics) = grad_fn(precision.cast(MODEL, torch.bfloat16))(PARAMS, BUFFERS, BATCH, None)
    exact, (_, exact_metrics) = grad_fn(MODEL)(PARAMS, BUFFERS, BATCH, None)
    assert {g.dtype for g in grads.values()} == {torch.float32}
    assert new["norm1.running_mean"].dtype == torch.float32
    assert 0 < abs(float(metrics["loss"] - exact_metrics["loss"])) < 0.1
    cosine = torch.nn.functional.cosine_similarity(
        grads["fc.weight"].flatten(), exact["fc.weight"].flatten(), 0
    )
    assert cosine > 0.98
    logits, _ = precision.cast(MODEL, torch.bfloat16).apply(PARAMS, BUFFERS, BATCH[0])
    assert logits.dtype == torch.float32


def test_mirror_averaging_is_blind_to_mirrors_in_evaluation_only():
    model, x = tta.mirror_averaged(MODEL), BATCH[0]
    assert torch.allclose(
        model.apply(PARAMS, BUFFERS, x)[0], model.apply(PARAMS, BUFFERS, x.flip(3))[0], atol=1e-5
    )
    one, two = (m.apply(PARAMS, BUFFERS, x, train=True)[0] for m in (model, MODEL))
    assert torch.equal(one, two)


def test_the_probe_measures_every_way():
    seconds = autotune(MODEL, BATCH, list(VARIANTS), repeats=1)
    assert seconds.keys() == VARIANTS.keys()
    assert all(value > 0 for value in seconds.values())
    assert variants_for("auto") == list(VARIANTS)
    assert variants_for("float32") == ["float32"]
    assert autotune(MODEL, BATCH, variants_for("bfloat16")) == {
        "bfloat16 channels_last": 0.0
    }  # nothing to measure


def test_shift_averaging_is_half_the_image_and_two_moved_by_a_pixel():
    x = BATCH[0]
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    up_left, down_right = wide[:, :, :16, :16], wide[:, :, 2:, 2:]
    logits = [MODEL.apply(PARAMS, BUFFERS, view)[0] for view in (x, up_left, down_right)]
    expected = logits[0] / 2 + (logits[1] + logits[2]) / 4
    found, _ = tta.shift_averaged(MODEL).apply(PARAMS, BUFFERS, x)
    assert torch.allclose(found, expected, atol=1e-5)
    as_uint8 = (x * 50 + 100).clamp(0, 255).byte()
    seen = []
    model = MODEL._replace(apply=lambda p, b, x, **_: (seen.append(x) or torch.zeros(len(x), 10), b))
    tta.shift_averaged(model).apply(PARAMS, BUFFERS, as_uint8)
    assert [view.dtype for view in seen] == [torch.uint8] * 3
    assert torch.equal(seen[2][:, :, :-1, :-1], as_uint8[:, :, 1:, 1:])
    trained, plain = (m.apply(PARAMS, BUFFERS, x, train=True)[0] for m in (tta.shift_averaged(MODEL), MODEL))
    assert torch.equal(trained, plain)
