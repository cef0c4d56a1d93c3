"""What all tests share: quick properties, and small nets with their data."""

import os
import shutil
import subprocess
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # matrices are small here; threads would only wait

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.tree_files import ROOT, checked_in_files

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("quick")
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_images(tmp_path_factory):
    """No test writes into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PURENETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cifar10_dir() -> str:
    """CIFAR-10 itself, as `--data_dir` takes it; the test is skipped where it is not unpacked."""
    folder = Path(__file__).parents[1] / "data"
    if not (folder / "cifar-10-batches-py").exists():
        pytest.skip("CIFAR-10 is not unpacked at data/cifar-10-batches-py")
    return str(folder)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """As they are by default after every test: the RNN's script has them flushed to zero."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def traced_only(monkeypatch):
    """`jit` traces a function, checks it and runs its graph, but generates no code, which takes
    torch seconds for each graph. With PURENETS_GENERATE it does, as `make test-oldest` and
    `make test-newest` set it: those try other code generators."""
    if not os.environ.get("PURENETS_GENERATE"):
        compile_graph = "purenets.torch_nets.fast.aot.compile_graph"
        monkeypatch.setattr(compile_graph, lambda graph, examples: graph)


@pytest.fixture
def params() -> dict:
    """Matrices and vectors, float64."""
    draw = np.random.default_rng(0).normal
    return {
        "fc1.weight": draw(size=(5, 3)),
        "fc1.bias": draw(size=5),
        "fc2.weight": draw(size=(2, 5)),
        "fc2.bias": draw(size=2),
    }


@pytest.fixture(scope="session")
def clean_checkout(tmp_path_factory) -> Path:
    """Return a checkout of these very files that does not differ from its commit."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("checkout")
    for name in checked_in_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    user = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*user, "commit", "-q", "-m", "tests"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; the test is skipped where it is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the test extras")
    if not CHROMIUM:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Return the function that opens a page without network; whatever it complains of fails."""
    contexts, complaints = [], []

    def opened(path: Path, width: int = 1400, scheme: str = "light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("requestfailed", lambda request: complaints.append(request.url))
        tab.on(
            "request",
            lambda request: complaints.extend(
                [request.url] if request.url.startswith("http") else []
            ),
        )
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
