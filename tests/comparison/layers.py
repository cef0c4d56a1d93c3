"""The tables of layers and losses."""

from collections.abc import Callable

from tests.comparison.members import gradients, keys, members_of, numbers, numbers_in_jax
from tests.comparison.table import Cell, Section, mapped, named, row

IMAGES, STEPS, FEATURES = (2, 4, 6, 6), (2, 5, 4), (5, 4)

# --- gradients of a layer, by its params and its inputs -------------------------------------------


def inputs_of(shape: tuple | str):
    """Return the inputs of three members: numbers of a shape, or tokens."""
    import torch

    return torch.arange(15).reshape(3, 5) % 7 if shape == "tokens" else numbers(*shape)


def passes(outputs: Callable, shared: dict) -> Callable:
    """Return the function of outputs, of their gradients, and of those at params that all share."""
    grads = gradients(outputs)
    return lambda params, *rest: (
        outputs(params, *rest),
        grads(params, *rest),
        grads(shared, *rest),
    )


def ours(make: str, shape: tuple | str) -> Cell:
    """Return the cell of a layer of ours, made by an expression after `layers.`."""

    def members() -> tuple:
        import torch

        from purenets.torch_nets import layers

        model = eval(f"layers.{make}", {"layers": layers, "torch": torch, "numbers": numbers})
        x, (key, *_) = inputs_of(shape), keys()
        takes_example = getattr(model.init, "takes_example", False)
        params, buffers = model.init(key, x[0]) if takes_example else model.init(key)

        def outputs(params, buffers, x, key):
            return model.apply(params, buffers, x, train=True, key=key)[0]

        return passes(outputs, params), members_of(params), members_of(buffers), x, keys()

    return mapped(f"torch_nets.layers.{make.partition('(')[0]}", members)


def theirs(make: str, shape: tuple | str, vmap: str = "members", module: str = "torch.nn") -> Cell:
    """Return the cell of a module, made by an expression after `module.`."""
    name = make.partition("(")[0]

    def members() -> tuple:
        import torch

        from tests.comparison.libraries import load

        torch.manual_seed(0)
        net = eval(make, vars(load(module)))
        params = {name: p.detach() for name, p in net.named_parameters()}
        buffers = dict(net.named_buffers())

        def outputs(params, buffers, x):
            arguments = (x, x, x) if "Multihead" in name else (x,)
            y = torch.func.functional_call(net, (params, buffers), arguments)
            return y[0] if isinstance(y, tuple) else y

        return passes(outputs, params), members_of(params), members_of(buffers), inputs_of(shape)

    return mapped(f"layers.{name}" if module == "opacus.layers" else name, members, vmap)


def private(make: str, shape: tuple, vmap: str = "members") -> Cell:
    """Return the cell of a module of Opacus."""
    return theirs(make, shape, vmap, "opacus.layers")


def layer(what: str, our: str, their: str, shape: tuple | str, vmap: str = "members") -> tuple:
    """Return the row of a layer that Opacus takes as torch.nn has it."""
    name = our.partition("(")[0].lower()
    return row(what, f"dp{name}", purenets=ours(our, shape), nn=theirs(their, shape, vmap))


LAYERS = [
    layer("Linear", "Linear(4, 3)", "Linear(4, 3)", FEATURES),
    layer("Embedding", "Embedding(7, 4)", "Embedding(7, 4)", "tokens"),
    layer("Convolution, 2-d", "Conv(4, 3, 3)", "Conv2d(4, 3, 3)", IMAGES),
    layer("Convolution, 1-d", "Conv1d(5, 3, 3)", "Conv1d(5, 3, 3)", STEPS),
    layer("Transposed convolution", "ConvTranspose(4, 3, 3)", "ConvTranspose2d(4, 3, 3)", IMAGES),
    layer("Batch normalization", "BatchNorm(4)", "BatchNorm2d(4)", IMAGES),
    layer("Group normalization", "GroupNorm(4, groups=2)", "GroupNorm(2, 4)", IMAGES),
    layer("Layer normalization", "LayerNorm(4)", "LayerNorm(4)", FEATURES),
    layer("RMS normalization", "RMSNorm(4)", "RMSNorm(4)", FEATURES),
    row(
        "RNN",
        "rnn",
        purenets=ours("RNN(4, 3)", STEPS),
        nn=theirs("RNN(4, 3, batch_first=True)", STEPS, ""),
        opacus=private("DPRNN(4, 3, batch_first=True)", STEPS),
    ),
    row(
        "LSTM",
        "lstm",
        purenets=ours("LSTM(4, 3)", STEPS),
        nn=theirs("LSTM(4, 3, batch_first=True)", STEPS, ""),
        opacus=private("DPLSTM(4, 3, batch_first=True)", STEPS),
    ),
    row(
        "GRU",
        "gru",
        purenets=ours("GRU(4, 3)", STEPS),
        nn=theirs("GRU(4, 3, batch_first=True)", STEPS, ""),
        opacus=private("DPGRU(4, 3, batch_first=True)", STEPS),
    ),
    row(
        "Attention",
        "multiheadattention",
        purenets=ours("MultiheadAttention(4, 2)", STEPS),
        nn=theirs("MultiheadAttention(4, 2, batch_first=True)", STEPS),
        opacus=private("DPMultiheadAttention(4, 2)", STEPS),
    ),
    layer(
        "Transformer block",
        "TransformerBlock(4, 2, 8)",
        "TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)",
        STEPS,
    ),
    layer("ReLU", "ReLU()", "ReLU()", FEATURES),
    layer("Tanh", "Tanh()", "Tanh()", FEATURES),
    layer("GELU", "GELU()", "GELU()", FEATURES),
    layer("SiLU", "SiLU()", "SiLU()", FEATURES),
    layer("Dropout", "Dropout(0.5)", "Dropout(0.5)", FEATURES, "draws"),
    layer("Max pooling", "MaxPool(2, stride=2)", "MaxPool2d(2)", IMAGES),
    layer("Mean over all pixels", "GlobalAvgPool()", "AdaptiveAvgPool2d(1)", IMAGES),
    layer("Flattening", "Flatten()", "Flatten()", IMAGES),
    layer(
        "Layers in sequence",
        "serial(fc1=layers.Linear(4, 3), relu=layers.ReLU(), fc2=layers.Linear(3, 2))",
        "Sequential(Linear(4, 3), ReLU(), Linear(3, 2))",
        FEATURES,
    ),
    row("x + f(x)", "residual", purenets=ours("residual(fc=layers.Linear(4, 4))", FEATURES)),
    row("Any function as a layer", "lambda", purenets=ours("elementwise(torch.sin)", FEATURES)),
    row("The last step of a sequence", "laststep", purenets=ours("LastStep()", STEPS)),
    row("A constant factor", "scale", purenets=ours("Scale(0.5)", FEATURES)),
    row(
        "Fixed filters",
        "fixedconv",
        purenets=ours("FixedConv(numbers(4, 3, 3), bias=True)", (2, 4, 6, 6)),
    ),
    row(
        "A fixed linear map",
        "fixedlinear",
        purenets=ours("FixedLinear(numbers(4)[:2], numbers()[:2])", FEATURES),
    ),
    row(
        "Sizes inferred from an example",
        "lazy",
        purenets=ours("lazy(layers.Linear, 3)", FEATURES),
        nn=named("LazyLinear"),
    ),
]

# --- gradients of a loss, by its inputs -----------------------------------------------------------


def loss(name: str, make: str, targets: Callable, module: str = "purenets.torch_nets") -> Cell:
    """Return the cell of a loss of tensors (5, 4), an expression of names in `module`."""

    def members() -> tuple:
        from tests.comparison.libraries import load

        f = eval(make, vars(load(module)))
        return gradients(lambda z, y: f(z, y)), numbers(*FEATURES), targets()

    return mapped(name, members)


def smoothed_by_optax(z, y):
    import jax
    import optax

    labels = optax.losses.smooth_labels(jax.nn.one_hot(y, 4), 0.1)
    return optax.losses.softmax_cross_entropy(z, labels)


def loss_of_jax(make: str, targets: Callable) -> Cell:
    """Return the cell of a loss of optax."""

    def members() -> tuple:
        import jax
        import optax

        f = smoothed_by_optax if make == "smooth_labels" else getattr(optax.losses, make)
        y = jax.numpy.asarray(targets().numpy())
        return jax.grad(lambda z, y: f(z, y).sum()), numbers_in_jax(*FEATURES), y

    return mapped(f"losses.{make}", members)


def classes():
    import torch

    return torch.arange(15).reshape(3, 5) % 4


def truths():
    return (numbers(*FEATURES) > 0.3).float()


def outputs():
    return numbers(*FEATURES).flip(1)


def loss_row(what: str, words: str, our: str, targets: Callable, **cells: str) -> tuple:
    """Return the row of a loss: our expression, and theirs by library."""
    name = our.partition("(")[0]
    made = {"purenets": loss(f"torch_nets.losses.{name}", f"losses.{our}", targets)}
    if "nn" in cells:
        their = cells["nn"]
        made["nn"] = loss(their.partition("(")[0], their, targets, "torch.nn")
    if "torchvision" in cells:
        their = cells["torchvision"]
        made["torchvision"] = loss(their, f"{their}", targets, "torchvision")
    if "optax" in cells:
        made["optax"] = loss_of_jax(cells["optax"], targets)
    return row(what, words, **made)


def soft():
    return numbers(*FEATURES).softmax(-1)


LOSSES = [
    loss_row(
        "Cross-entropy of classes",
        "(softmax)?crossentropy(loss)?",
        "cross_entropy",
        classes,
        nn="functional.cross_entropy",
        optax="softmax_cross_entropy_with_integer_labels",
    ),
    loss_row(
        "Cross-entropy of one-hot or soft labels",
        "(softmax)?crossentropy(loss)?",
        "cross_entropy",
        soft,
        nn="functional.cross_entropy",
        optax="softmax_cross_entropy",
    ),
    loss_row(
        "Smoothed labels",
        "(label)?smooth(ed)?(labels)?",
        "label_smoothed(0.1)",
        classes,
        nn="CrossEntropyLoss(label_smoothing=0.1)",
        optax="smooth_labels",
    ),
    loss_row(
        "Binary cross-entropy of logits",
        "(sigmoid)?binarycrossentropy(withlogits)?",
        "binary_cross_entropy",
        truths,
        nn="functional.binary_cross_entropy_with_logits",
        optax="sigmoid_binary_cross_entropy",
    ),
    loss_row("Focal loss of classes", "(softmax|multiclass)focal(loss)?", "focal(2.0)", classes),
    loss_row(
        "Focal loss of logits",
        "(sigmoid)?focal(loss)?",
        "binary_focal(2.0)",
        truths,
        torchvision="ops.sigmoid_focal_loss",
        optax="sigmoid_focal_loss",
    ),
    loss_row(
        "Mean squared error",
        "mse(loss)?",
        "mse",
        outputs,
        nn="functional.mse_loss",
        optax="squared_error",
    ),
    loss_row(
        "Huber's loss",
        "huber(loss)?",
        "huber(0.5)",
        outputs,
        nn="functional.huber_loss",
        optax="huber_loss",
    ),
]
LAYERS_TEXT = """\
Params have the names of torch.nn's `state_dict`. Checked under vmap, in training mode: outputs and
gradients with respect to params and inputs, each member with its own inputs, buffers and key, and
with either its own or shared params. Modules are called by `torch.func.functional_call`.
torch.nn's recurrent layers have no vmap rule outside of a gradient; its RNN and GRU have none for
shared params either. "One draw" means that torch's generator draws one mask for all members.
Opacus uses torch.nn's layers where it has none of its own."""
LOSSES_TEXT = """\
Checked under vmap: the gradients with respect to the outputs of a net. `numpy_nets.losses` has
hand-written gradients."""
SECTIONS = [
    Section(
        "Layers",
        LAYERS_TEXT,
        ("purenets", "nn", "opacus"),
        LAYERS,
    ),
    Section(
        "Losses",
        LOSSES_TEXT,
        ("purenets", "nn", "torchvision", "optax"),
        LOSSES,
    ),
]
