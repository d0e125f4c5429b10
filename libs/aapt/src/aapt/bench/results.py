"""`bench/results.json`: what was last measured of each kind, and on what machine."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path("bench/results.json")


def machine() -> str:
    """The processor and how many there are of it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())}, {os.cpu_count()} cores"


def keep(kind: str, numbers: dict[str, Any], path: Path = RESULTS) -> None:
    """Put `numbers` under `kind`, in place of those of an earlier run; other kinds stay."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept[kind] = {"machine": machine(), "at": datetime.now(UTC).isoformat(timespec="seconds"), **numbers}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def table(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Markdown: what, what was aimed at, what was measured."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {title} | target | measured |", "|---|---|---|", *lines])
