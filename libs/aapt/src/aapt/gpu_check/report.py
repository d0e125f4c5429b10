"""What was found, as one page to read and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from aapt.gpu_check.parity import Parity
from aapt.gpu_check.speed import DecodeSpeed, Profile, Speed
from aapt.shapes import FRAMES_PER_LATENT

NO_GPU = (
    "**No GPU was found on this machine, so nothing was measured and nothing was checked.** torch sees no"
    " CUDA device. On a machine that has one, install torch's CUDA build and run `make gpu-check` there;"
    " `--device cpu` tries the check itself."
)

Row = Sequence[str]
Table = tuple[Row, Sequence[Row]]


@dataclass
class Report:
    """Everything of one run. left_out: what was not tried, and why. failed: what was tried and broke."""

    machine: dict[str, object]
    has_device: bool = True
    parities: list[Parity] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    decodes: list[DecodeSpeed] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing broke, and all that was compared is close enough."""
        return not self.failed and all(parity.is_close for parity in self.parities)

    def write(self, folder: Path) -> None:
        """report.md and report.json in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.text())
        (folder / "report.json").write_text(json.dumps(self.numbers(), indent=1) + "\n")

    def numbers(self) -> dict[str, object]:
        """All of it, with what follows from it."""
        return {
            **asdict(self),
            "is_good": self.is_good,
            "parities": [asdict(each) | {"is_close": each.is_close} for each in self.parities],
            "speeds": [
                asdict(each) | {"frames_per_s": each.frames_per_s, "reached": each.reached}
                for each in self.speeds
            ],
        }

    def text(self) -> str:
        """All of it as Markdown."""
        said = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = ["# What this machine's GPUs do", said]
        if not self.has_device:
            return "\n\n".join([*parts, NO_GPU]) + "\n"
        if self.parities:
            parts += ["## The same latents as a CPU in float32", PARITY_NOTE, _table(*self._parity_rows())]
        if self.speeds:
            parts += ["## Steps", SPEED_NOTE, _table(*self._speed_rows())]
        if self.decodes:
            parts += ["## Decoding", _table(*self._decode_rows())]
        if self.profiles:
            parts.append("## Where a step's time goes")
        for profile in self.profiles:
            kernels = [(name, f"{spent_ms:.3f}") for name, spent_ms in profile.kernels]
            parts += [
                f"{profile.preset}, {profile.way}; the whole trace is {profile.trace}.",
                _table(("kernel", "ms a step"), kernels),
            ]
        for title, found in (("Left out", self.left_out), ("Failed", self.failed)):
            if found:
                parts += [f"## {title}", "\n".join(f"- {what}: {why}" for what, why in found.items())]
        verdict = "All that was tried works." if self.is_good else "**Something does not work: see above.**"
        return "\n\n".join([*parts, verdict]) + "\n"

    def _parity_rows(self) -> Table:
        header = ("model", "way", "compared", "worst error", "allowed", "")
        rows = [
            (
                each.model,
                each.way,
                f"{each.compared} {each.what}",
                f"{each.error:.2g}",
                f"{each.allowed:g}",
                "close" if each.is_close else "**too far**",
            )
            for each in self.parities
        ]
        return header, rows

    def _speed_rows(self) -> Table:
        header = (
            *("preset", "way", "GPUs", "sessions", "step, ms", "p95", "frames/s"),
            *("roofline, ms", "reached", "memory, GB", "warm-up, s"),
        )
        rows = [
            (
                *(each.preset, each.way, str(each.ranks), str(each.sessions)),
                *(f"{each.step_ms:.3f}", f"{each.step_p95_ms:.3f}", f"{each.frames_per_s:.1f}"),
                "" if each.roofline_ms is None else f"{each.roofline_ms:.3f}",
                "" if each.reached is None else f"{each.reached:.0%}",
                "" if each.memory_gb is None else f"{each.memory_gb:.1f}",
                f"{each.warm_up_s:.1f}",
            )
            for each in self.speeds
        ]
        return header, rows

    def _decode_rows(self) -> Table:
        header = (
            "preset",
            "precision",
            "a latent, ms",
            "frames/s",
            "roofline, ms",
            "frames/s behind its step",
        )
        rows = []
        for each in self.decodes:
            steps = [s.step_ms for s in self.speeds if s.preset == each.preset and s.sessions == s.ranks == 1]
            serial = 1e3 * FRAMES_PER_LATENT / (min(steps) + each.decode_ms) if steps else None
            rows.append(
                (
                    each.preset,
                    each.dtype,
                    f"{each.decode_ms:.3f}",
                    f"{1e3 * FRAMES_PER_LATENT / each.decode_ms:.1f}",
                    "" if each.roofline_ms is None else f"{each.roofline_ms:.3f}",
                    "" if serial is None else f"{serial:.1f}",
                )
            )
        return header, rows


PARITY_NOTE = (
    "Each latent is made of the same past in both, for two sessions in one step; its error is a share of the"
    " latents' root mean square, that of frames is in levels of 255. The ring is gone round once, so steps"
    " past the window are among them."
)
SPEED_NOTE = (
    "Medians by the host's clock, past the window, copies included. Roofline: what `aapt.plan` makes of the"
    " maker's data sheet; reached is a share of it. Frames/s are those of each session, without decoding."
)


def machine(device: str) -> dict[str, object]:
    """What this was measured on."""
    found: dict[str, object] = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.device(device).type != "cuda":
        return found | {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    for i, gpu in enumerate(gpus):
        found[f"GPU {i}"] = f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)"
    return found | {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
