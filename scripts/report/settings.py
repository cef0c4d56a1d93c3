"""The appendix: every preset and setting with its changed options, and every command."""

import dataclasses
from collections.abc import Mapping, Sequence

from purenets.core.report.document import Section
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.options import Options
from scripts import cifar10_cnn, cifar10_mlp, cifar10_sweep, cnn_sweep, cnn_train, palindrome_sweep
from scripts import train as rnn
from scripts.report.cifar10 import SCRIPTS, TITLES, title_of
from scripts.report.prose import sections
from scripts.report.results import origins
from scripts.shared.sweeps import grouped

PLACES = ("preset", "out", "data_dir", "seed", "resume", "keep", "test")  # no effect on a training
LONG = 200  # letters of a meaning that is said once, as the list of all optimizers


def appendix(found: dict[str, dict]) -> list[Section]:
    """Return the sections of the appendix."""
    skeleton = cnn_train.PRESETS["assignment"]
    values = {
        "assignment_rate": skeleton.learning_rate,
        "assignment_type": skeleton.precision,
        "adam_rate": cnn_sweep.SETTINGS["adam 1e-3"]["learning_rate"],
        "sweep_type": cnn_sweep.Config().precision,
        "cnn-presets": presets(cifar10_cnn.PRESETS),
        "mlp-presets": presets(cifar10_mlp.PRESETS),
        "vgg-presets": presets(cnn_train.PRESETS, ("mlp-presets", cifar10_mlp.Config)),
        "vgg-settings": changed(cnn_sweep.SETTINGS),
        "rnn-settings": changed(palindrome_sweep.SETTINGS),
        "rnn-options": meanings(rnn.Config, palindrome_sweep.SETTINGS),
        "ablations": ablations(),
        "commands": origins(found) or None,
        "seeds": seeds(found),
    }
    return sections("settings", values)


def seeds(found: dict[str, dict]) -> Table | None:
    """Return the seeds of each training on CIFAR-10; None if there are no results of any."""
    finals, of_part2 = (
        grouped(found.get(name, {"rows": []})["rows"])
        for name in ("part1_cifar10", "part2_settings")
    )
    named = {title_of(name): rows for name, rows in finals.items()}
    named |= {f"{TITLES['vgg']}, {name}": rows for name, rows in of_part2.items()}
    lines = [
        (name, *(in_ranges(seeds_on(rows, gpu)) for gpu in (False, True)), len(rows))
        for name, rows in named.items()
    ]
    return table_of(("training", "seeds on a CPU", "seeds on a GPU", "n"), lines) if lines else None


def seeds_on(rows: Sequence[dict], gpu: bool) -> list[int]:
    """Return the seeds of the rows that ran on a GPU, or of those that did not."""
    return sorted(row["seed"] for row in rows if ("NVIDIA" in row["machine"]) == gpu)


def in_ranges(numbers: Sequence[int]) -> str:
    """Return increasing numbers as a text, three or more in a row as a range.

    >>> in_ranges([100, 101, 102, 103, 200, 204, 205]), in_ranges([])
    ('100 to 103, 200, 204, 205', '')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return ", ".join(text for own in texts for text in own)


def presets(
    configs: Mapping[str, Options], before: tuple[str, type[Options]] | None = None
) -> Table:
    """Return a row for each option that a preset changes: its values and its meaning.

    Args:
        configs: The presets.
        before: The key of a table above and its options; long meanings that stand there are not
            said again.
    """
    first = next(iter(configs.values()))
    key, other = before or ("", type(first))
    told = {field.name: field.metadata["help"] for field in dataclasses.fields(other) if before}
    rows = []
    for field in dataclasses.fields(first):
        values = [config.to_dict()[field.name] for config in configs.values()]
        default = type(first)().to_dict()[field.name]
        if field.name not in PLACES and any(value != default for value in values):
            meaning, known = field.metadata["help"], told.get(field.name, "")
            if len(known) > LONG and meaning.startswith(known):
                meaning = f"as in @{key}" + meaning.removeprefix(known).replace(",", "; also", 1)
            rows.append((f"`{field.name}`", *map(shown, values), meaning))
    return table_of(("option", *configs, "meaning"), rows)


def changed(settings: Mapping[str, dict]) -> Table:
    """Return a row for each setting with the options that it changes."""
    return table_of(
        ("setting", "options changed"), [(name, options(own)) for name, own in settings.items()]
    )


def meanings(config: type[Options], settings: Mapping[str, dict]) -> Table:
    """Return default and meaning of each option that some setting changes."""
    names = {name for own in settings.values() for name in own}
    rows = [
        (f"`{field.name}`", shown(config().to_dict()[field.name]), field.metadata["help"])
        for field in dataclasses.fields(config)
        if field.name in names
    ]
    return table_of(("option", "default", "meaning"), rows)


def ablations() -> Table:
    """Return a row for each ingredient that the ablation changes."""
    rows = []
    for kind, preset, _, own in cifar10_sweep.CHANGES.values():
        whole = f"`{preset}` of `{SCRIPTS[kind]}`"
        rows += [(whole, name, options(change)) for name, change in own.items()]
    return table_of(("preset", "changed ingredient", "options changed"), rows)


def options(own: Mapping[str, object]) -> str:
    """Return options with their values, as "flip = random, crop = 4"; "none" for no options."""
    return ", ".join(f"{name} = {shown(value)}" for name, value in own.items()) or "none"


def shown(value: object) -> str:
    """Return the value of an option as a text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
