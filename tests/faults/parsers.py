"""Coverage-guided fuzzing of all that reads a file, by atheris (`pip install -e ".[fuzz]"`): one
parser at a time.

    python -m tests.faults.parsers checkpoint 100000 FOLDER

Anything but success and a UserError of one line ends it with a traceback. At the end
FOLDER/counts.json says how many inputs were taken and refused.
"""

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

try:
    import atheris
except ImportError:  # the test that calls this is skipped then
    atheris = None

with atheris.instrument_imports(include=["purenets.core"]) if atheris else contextlib.nullcontext():
    from purenets import UserError, data, random, runs
    from purenets.core.runs import checkpoint, history
    from scripts import train_mlp_numpy

import numpy as np

TEMPLATE = {"params": {"fc1.weight": np.zeros((2, 3), np.float32)}, "step": np.int64(0)}


def read_checkpoint(folder: Path) -> None:
    checkpoint.load(folder, TEMPLATE)


def read_config(folder: Path) -> None:
    with runs.open_run(train_mlp_numpy.Config(out=str(folder), resume=True)):
        pass


def read_history(folder: Path) -> None:
    history.read_csv(folder / "history.csv")


def read_table(folder: Path) -> None:
    data.from_csv(folder / "table.csv", random.key(0))


PARSERS = {
    "checkpoint": (checkpoint.NAME, read_checkpoint),
    "config": ("config.json", read_config),
    "history": ("history.csv", read_history),
    "table": ("table.csv", read_table),
}


def examples(name: str, folder: Path) -> None:
    """A good file of each kind, to begin with."""
    if name == "checkpoint":
        checkpoint.save(folder, TEMPLATE, {"history": []})
    elif name == "config":
        with runs.open_run(train_mlp_numpy.Config(out=str(folder))):
            pass
    elif name == "history":
        history.write_csv(
            folder / "history.csv", [{"step": 0, "loss": 0.5}, {"step": 10, "accuracy": 1.0}]
        )
    else:
        (folder / "table.csv").write_text("a,b,class\n1,2.5,0\n3,-1,1\n0,0,1\n2,2,0\n1,1,0\n")


def main(name: str, runs: int, folder: Path) -> None:
    file, parse = PARSERS[name]
    corpus, place = folder / "corpus", folder / "run"
    corpus.mkdir(parents=True)
    place.mkdir()
    examples(name, place)
    (corpus / "good").write_bytes((place / file).read_bytes())
    counts = Counter()

    def one(content: bytes) -> None:
        (place / file).write_bytes(content)
        counts["tried"] += 1
        try:
            parse(place)
            counts["taken"] += 1
        except UserError as error:
            counts["refused"] += 1
            assert len(str(error).splitlines()) == 1
        if counts["tried"] == runs:
            (folder / "counts.json").write_text(json.dumps(counts))

    atheris.Setup(
        [
            sys.argv[0],
            f"-runs={runs}",
            "-max_len=2048",
            "-rss_limit_mb=0",  # torch alone maps more than the limit of 2 GB
            "-timeout=20",
            f"-artifact_prefix={folder}/",
            str(corpus),
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
