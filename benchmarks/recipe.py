"""The public recipe airbench94_muon.py, as it stands: loaded from its file, on a GPU or a CPU, and
trained step by step.

No code of it is here. On a CPU its words for devices are replaced: tensors stay on the CPU, half
precision is bfloat16 (a CPU has no fast half), and the network is not compiled unless asked for.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from einops import rearrange

# what the file says of the GPU, and what is said of the CPU instead
ON_CPU = (
    ('torch.device("cuda")', 'torch.device("cpu")'),
    (".half()", ".bfloat16()"),
    ("torch.cuda.Event(enable_timing=True)", "Moment()"),
    ("torch.cuda.synchronize()", "None"),
)
EPOCHS, BATCH, IMAGES = 8, 2000, 50_000  # of the file
STEPS = EPOCHS * IMAGES // BATCH
EPOCH_STEPS = 2  # steps after which an epoch is ended, so that its beginning is measured often


class Moment:
    """An event of torch.cuda, on a CPU."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, later: "Moment") -> float:
        return 1e3 * (later.time - self.time)


def loaded(path: str, folder: Path) -> dict:
    """Return what the file defines; its images are those of `write_images(..., folder)`."""
    import torch

    source = Path(path).read_text(encoding="utf-8")
    for old, new in () if torch.cuda.is_available() else ON_CPU:
        source = source.replace(old, new)
    sys.argv[0] = path  # it reads its own source
    recipe = {"__name__": "recipe", "Moment": Moment, "FOLDER": str(folder)}
    exec(compile(source.replace('"cifar10"', repr(str(folder))), path, "exec"), recipe)
    return recipe


def net_of(recipe: dict, compiled: bool):
    """Return the network; compiled, and warmed up, on a GPU or where it is asked for."""
    import torch

    on_gpu = torch.cuda.is_available()
    net = recipe["CifarNet"]()
    net = net.to("cuda" if on_gpu else "cpu", memory_format=torch.channels_last)
    if on_gpu or compiled:
        net.compile(mode="max-autotune")
        recipe["main"]("warmup", net)
    return net


def precision() -> str:
    """Return the dtype that the recipe computes in here."""
    import torch

    return "float16" if torch.cuda.is_available() else "bfloat16"


def write_images(found, folder: Path) -> None:
    """Write an `ImageDataset` as the files that the recipe keeps."""
    import torch

    for name, (x, y) in {"train": found.train, "test": found.test}.items():
        pixels = torch.from_numpy(rearrange(np.array(x), "n c h w -> n h w c").copy())
        labels = torch.from_numpy(np.array(y))
        content = {"images": pixels, "labels": labels, "classes": list(found.classes)}
        torch.save(content, folder / f"{name}.pt")


class Paced:
    """The recipe's training, which goes on by a step for each call.

    Its `main` runs in a thread; its loader waits before each batch until a step is asked for. An
    epoch ends after EPOCH_STEPS steps and the evaluation after it is left out, so that all parts
    are measured within few steps. Nothing else of it is changed.

    Args:
        recipe: as `loaded` returns it.
        net: as `net_of` returns it.
        threads: of the CPU.
        n_views: test images that `views` looks at.
    """

    def __init__(self, recipe: dict, net, threads: int, n_views: int):
        self.recipe, self.net, self.threads, self.n_views = recipe, net, threads, n_views
        self.asked: queue.Queue = queue.Queue()
        self.answers: queue.Queue = queue.Queue()
        self.infer = recipe["infer"]
        self.test = recipe["CifarLoader"](recipe["FOLDER"], train=False, batch_size=BATCH)
        self.test.images = self.test.images[:n_views]
        self.whitening_seconds = 0.0
        net.init_whiten = self.timed(net.init_whiten)
        recipe["evaluate"] = lambda *arguments, **options: 0.0
        recipe["print_training_details"] = lambda *arguments, **options: None
        recipe["CifarLoader"].__iter__ = self.paced(recipe["CifarLoader"].__iter__)
        threading.Thread(target=self.train, daemon=True).start()

    def timed(self, init_whiten: Callable) -> Callable:
        def call(*arguments) -> None:
            begin = time.perf_counter()
            init_whiten(*arguments)
            self.whitening_seconds = time.perf_counter() - begin

        return call

    def train(self) -> None:
        import torch

        torch.set_num_threads(self.threads)  # it holds for a thread only
        try:
            while True:
                self.recipe["main"](None, self.net)
        except BaseException as error:
            self.answers.put(error)

    def paced(self, batches_of: Callable) -> Callable:
        def batches(loader) -> Iterator:
            drawn = batches_of(loader)
            for i in range(EPOCH_STEPS):
                around = self.wait()
                with around:
                    begin = time.perf_counter()
                    batch = next(drawn)
                    ready = time.perf_counter()
                    yield batch
                    waited_for()
                    done = time.perf_counter()
                name = draw_name(i, loader.epoch)
                self.answers.put({name: ready - begin, "step": done - ready})

        return batches

    def wait(self):
        """Answer for the test over views until a step is asked for; return what to do it in."""
        while True:
            what, around = self.asked.get()
            if what == "step":
                return around
            with around:
                self.answers.put({"views": self.seconds_of_views()})

    def seconds_of_views(self) -> float:
        begin = time.perf_counter()
        self.infer(self.net, self.test, 2)
        waited_for()
        self.net.train()
        return time.perf_counter() - begin

    def ask(self, what: str, around) -> dict[str, float]:
        """Return the seconds of a "step" or of "views", taken inside of the context `around`."""
        self.asked.put((what, around))
        answer = self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def draw_name(step: int, epoch: int) -> str:
    """Return the name of the drawing of a batch, by its place in its epoch (counted from 1)."""
    if step > 0:
        return "draw"
    return "draw, first of all" if epoch == 1 else "draw, first of an epoch"


def waited_for() -> None:
    """Wait for the device, where it is one to wait for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
