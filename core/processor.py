"""What the system says of the processor."""

import functools
from pathlib import Path


@functools.cache
def cpu_info() -> dict[str, str]:
    """Return the fields of the first core in Linux's /proc/cpuinfo; {} on other systems."""
    info, path = {}, Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        info.setdefault(name.strip(), value.strip())
    return info
