"""How much memory there is left, and what it looks like when there is none."""

import os
from pathlib import Path

_SIGNS = ("allocate memory", "out of memory", "ALLOC_FAILED")
_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """What this process may still take, of the machine and of its container's limit. None: unknown."""
    told = [left for left in (_of_machine(), _of_container()) if left is not None]
    return min(told, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a GPU. torch has no class of its own for the former."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # A subclass of ours says what it is; one that says so of another process is not about this one.
    of_torch = type(error) is RuntimeError or type(error).__module__.partition(".")[0] == "torch"
    return of_torch and isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return _free_pages_bytes()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def _free_pages_bytes() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _of_container(group: Path = _GROUP) -> int | None:
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Pages of files that were read are given back before anything is refused.
    return None if limit == "max" else int(limit) - int(used) + int(held.get("inactive_file", 0))
