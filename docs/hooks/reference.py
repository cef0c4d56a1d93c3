"""The API reference: a page for each module, with its public names, from their docstrings."""

import configparser
import importlib
import inspect
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from purenets import optim

SOURCES = tempfile.TemporaryDirectory()  # removed when the build ends
SENTENCE = re.compile(r"(?<!et al)\.\s+(?=[A-Z`])")
ANALYSIS = "purenets.torch_nets.analysis"
NUMPY_LAYERS = (
    *("Linear", "ReLU", "Tanh", "SiLU", "SoftMax", "Dropout", "serial", "params_backward"),
    *("linear_forward", "linear_backward", "relu_forward", "relu_backward", "tanh_forward"),
    *("tanh_backward", "silu_forward", "silu_backward", "dropout_forward", "dropout_backward"),
    *("softmax_forward", "softmax_backward", "cross_entropy_forward", "cross_entropy_backward"),
    *("softmax_cross_entropy_forward", "softmax_cross_entropy_backward"),
)
NUMPY_IMAGE_LAYERS = (
    *("Conv", "MaxPool", "GlobalAvgPool", "BatchNorm", "conv_forward", "conv_backward"),
    *("max_pool_forward", "max_pool_backward", "global_avg_pool_forward"),
    *("global_avg_pool_backward", "batch_norm_forward", "batch_norm_backward"),
)


class Part(NamedTuple):
    """The public names of a module, or some of them."""

    module: str
    names: tuple[str, ...] | Callable[[str], bool] = lambda name: True


def is_optimizer(name: str) -> bool:
    """Return True for a whole optimizer, or a table of such."""
    return name in (*optim.OPTIMIZERS, *optim.SAMPLERS, "OPTIMIZERS", "SAMPLERS", "beta_lasso")


def is_wrapper(name: str) -> bool:
    """Return True for what takes optimizers, or reads and changes their states."""
    module = getattr(getattr(optim, name), "__module__", "")
    around = ("schedule_free", "apply_updates", "elementwise", "Hyper")
    return name in around or module in ("purenets.core.optim.wrappers", "purenets.core.optim.state")


def is_transform(name: str) -> bool:
    """Return True for a part of a chain, and `chain` itself."""
    return not is_optimizer(name) and not is_wrapper(name)


# The doors, each with its pages: the title, and what it documents
DOORS: dict[str, dict[str, tuple[Part, ...]]] = {
    "purenets": {
        "purenets": (Part("purenets"),),
        "optim: optimizers": (Part("purenets.optim", is_optimizer),),
        "optim: transforms": (Part("purenets.optim", is_transform),),
        "optim: wrappers, states": (Part("purenets.optim", is_wrapper),),
        "schedules": (Part("purenets.schedules"),),
        "random": (Part("purenets.random"),),
        "tree": (Part("purenets.tree"),),
        "data": (
            Part("purenets.data"),
            Part("purenets.core.data.images", ("ImageDataset", "digits", "folder")),
            Part("purenets.core.data.palindromes", ("palindromes", "all_palindromes")),
        ),
        "runs": (Part("purenets.runs"),),
        "metrics, checks, tables": (
            Part("purenets.core.metrics"),
            Part("purenets.core.gradcheck"),
            Part("purenets.core.sam"),
            Part("purenets.core.report.tabulate"),
        ),
    },
    "purenets.numpy_nets": {
        "numpy_nets": (Part("purenets.numpy_nets"),),
        "losses": (Part("purenets.numpy_nets.losses"),),
        "layers": (
            Part("purenets.numpy_nets.modules", NUMPY_LAYERS),
            Part("purenets.numpy_nets.image_modules", NUMPY_IMAGE_LAYERS),
        ),
    },
    "purenets.torch_nets": {
        "torch_nets": (Part("purenets.torch_nets"),),
        "layers": (Part("purenets.torch_nets.layers"),),
        "losses": (Part("purenets.torch_nets.losses"),),
        "augment": (Part("purenets.torch_nets.augment"),),
        "ensembles": (
            Part("purenets.torch_nets.ensemble", ("deep_ensemble", "per_member_grad_fn")),
        ),
        "precision, views": (
            Part("purenets.torch_nets.precision", ("cast", "channels_last")),
            Part("purenets.torch_nets.tta"),
        ),
        "several processes": (
            Part(
                "purenets.torch_nets.distributed",
                ("processes", "data_parallel", "parallel_metrics", "mean_over_ranks", "total"),
            ),
        ),
        "torch.optim": (Part("purenets.torch_nets.torch_optim"),),
        "analysis: per example, privacy": (
            Part(
                f"{ANALYSIS}.per_example",
                (
                    *("per_example_grads", "check_per_example", "example_grad_norms"),
                    *("leaf_grad_norms", "noise_scale", "top_loss_indices", "influence"),
                ),
            ),
            Part(f"{ANALYSIS}.ghost", ("ghost_norms", "clipped_sum")),
            Part(f"{ANALYSIS}.privacy"),
        ),
        "analysis: curvature": (
            Part(f"{ANALYSIS}.curvature"),
            Part(f"{ANALYSIS}.conjugate_gradients"),
            Part(f"{ANALYSIS}.operators", ("matrix_product", "damped", "to_dense")),
            Part(f"{ANALYSIS}.trace", ("hutchinson_trace", "hutchpp_trace", "xtrace")),
            Part(f"{ANALYSIS}.diagonal", ("hutchinson_diag", "xdiag", "ggn_diagonal")),
            Part(f"{ANALYSIS}.quadrature"),
            Part(f"{ANALYSIS}.kfac", ("kfac", "kfac_vp", "kfac_solve")),
        ),
        "analysis: uncertainty": (Part(f"{ANALYSIS}.laplace"),),
        "analysis: hidden states": (Part(f"{ANALYSIS}.rnn_states"),),
    },
}


# --- which names ----------------------------------------------------------------------------------


def public_names(part: Part) -> list[str]:
    """Return the names of a part: those given, or all public ones that are no modules."""
    if not callable(part.names):
        return list(part.names)
    module = importlib.import_module(part.module)
    names = getattr(module, "__all__", None) or _defined_in(module)
    return [n for n in names if not inspect.ismodule(getattr(module, n)) and part.names(n)]


def _defined_in(module: ModuleType) -> list[str]:
    """Return the public functions and classes of a module without `__all__`, in their order."""
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    ]


def path_of(module: str, name: str) -> str:
    """Return the path of a name in the sources.

    It is that of the definition where a module has the name too, as `torch_nets.ensemble` does.
    """
    package = importlib.import_module(module)
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    if any((folder / f"{name}.py").exists() for folder in folders):
        return f"{getattr(package, name).__module__}.{name}"
    return f"{module}.{name}"


# --- pages ----------------------------------------------------------------------------------------


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the sources where mkdocstrings looks for them, and the pages into the navigation."""
    _lay_out_sources(Path(config.config_file_path).parent, Path(SOURCES.name))
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [SOURCES.name]
    entry = next(item for item in config.nav if "Reference" in item)
    doors = [
        {door: [{title: page_path(door, title)} for title in pages]}
        for door, pages in DOORS.items()
    ]
    entry["Reference"] = ["reference/index.md", *doors]
    return config


def _lay_out_sources(root: Path, into: Path) -> None:
    """Copy the packages as an installation has them, since setup.cfg maps their folders."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    ignored = shutil.ignore_patterns("__pycache__")
    for line in setup["options"]["package_dir"].strip().splitlines():
        package, folder = line.replace(" ", "").split("=")
        place = into / package.replace(".", "/")
        shutil.copytree(root / folder, place, ignore=ignored, dirs_exist_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    files.append(File.generated(config, "reference/index.md", content=overview()))
    for door, pages in DOORS.items():
        for title, parts in pages.items():
            content = "\n".join(lines_of(title, parts))
            files.append(File.generated(config, page_path(door, title), content=content))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the sources below the docstrings out of the search."""
    source = '<details class="mkdocstrings-source"'
    return html.replace(source, f"{source} data-search-exclude")


def page_path(door: str, title: str) -> str:
    """Return the path on the site of a page."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in title).split()
    return f"reference/{door}/{'-'.join(words)}.md"


def lines_of(title: str, parts: tuple[Part, ...]) -> Iterator[str]:
    """Yield the lines of a page: for each part a table of its names, then their docstrings."""
    several = len(parts) > 1
    yield f"# {title if several else parts[0].module}\n"
    for part in parts:
        names = public_names(part)
        if several:
            yield f"\n## {part.module}\n"
        yield from ("| name | |", "|---|---|")
        yield from (f"| [`{n}`][{path_of(part.module, n)}] | {_summary(part, n)} |" for n in names)
        for name in names:
            yield f"\n::: {path_of(part.module, name)}"
            yield f"    options: {{heading_level: {3 if several else 2}}}"


def _summary(part: Part, name: str) -> str:
    """Return the first sentence of a docstring, as a cell of a table."""
    value = getattr(importlib.import_module(part.module), name)
    if not (inspect.isfunction(value) or inspect.isclass(value)) or not value.__doc__:
        return ""
    paragraph = " ".join(inspect.getdoc(value).split("\n\n")[0].split())
    return SENTENCE.split(paragraph)[0].rstrip(".:").replace("|", "\\|")


def overview() -> str:
    """Return the first page of the reference: the doors, and what is behind each."""
    lines = [
        "# Reference",
        "",
        "One package with three doors. `purenets` has what both backends share, `numpy_nets` and",
        "`torch_nets` have the same names where they do the same.",
    ]
    for door, pages in DOORS.items():
        lines += ["", f"## {door}", "", f"{purpose(door)}", "", "| page | names |", "|---|---|"]
        for title, parts in pages.items():
            names = [f"`{name}`" for part in parts for name in public_names(part)]
            path = page_path(door, title).removeprefix("reference/")
            lines.append(f"| [{title}]({path}) | {' '.join(names)} |")
    return "\n".join(lines)


def purpose(module: str) -> str:
    """Return the first paragraph of a module's docstring."""
    return inspect.getdoc(importlib.import_module(module)).split("\n\n")[0]
