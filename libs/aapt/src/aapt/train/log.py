"""What a run says of itself: log.jsonl, which counts, and the same numbers for TensorBoard where it is
installed.

A line is {"step": n, ...}: smoothed numbers every 20 steps, "held_out" ones when the moving average is
judged, and now and then what was "observed" inside the networks.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, TextIO, runtime_checkable

from torch import Tensor
from tqdm import tqdm


@runtime_checkable
class Board(Protocol):
    """As much of TensorBoard's `SummaryWriter` as is needed."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Appends to a run's log; what it says of steps after `first_step` is dropped, since they come again.

    run: the folder; none for those who say nothing.
    """

    def __init__(self, run: Path | None, first_step: int) -> None:
        self._file: TextIO | None = None
        self._board: Board | None = None
        if run is None:
            return
        path = run / "log.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
        partial = run / "log.jsonl.partial"
        partial.write_text("".join(kept))
        partial.replace(path)
        self._file = path.open("a")
        self._board = _board(run, first_step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._file, self._board):
            if each is not None:
                each.close()

    def write(self, step: int, numbers: Mapping[str, object]) -> None:
        """One line, at once on disk."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in _flat(numbers):
                self._board.add_scalar(name, value, step)


class Means:
    """Numbers of several segments and parts of them, averaged by the share of the clips that they are of."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = {}

    def add(self, share: float = 1.0, /, **numbers: Tensor) -> None:
        for name, value in numbers.items():
            self._values.setdefault(name, []).append((share, float(value.detach())))

    def means(self) -> dict[str, float]:
        return {
            name: sum(share * value for share, value in values) / sum(share for share, _ in values)
            for name, values in self._values.items()
        }


def _whole_lines(path: Path) -> list[str]:
    """A run that was killed may have left half a line behind."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _flat(numbers: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value


def _board(run: Path, first_step: int) -> Board | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tqdm.write("no TensorBoard here: log.jsonl has all numbers; for both: pip install 'aapt[train]'")
        return None
    return SummaryWriter(str(run), purge_step=first_step + 1)
