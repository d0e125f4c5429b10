"""Whether the GPUs of this machine serve as they should, and how fast: `make gpu-check`.

    python -m aapt.gpu_check
    python -m aapt.gpu_check --presets road aapt-8b --ranks 2 4
    python -m aapt.gpu_check --device cpu --presets debug     # tries the check itself where there is no GPU

Ends with 0 where all is well, and also where there is no GPU, which the report then says; with 1 where
something broke or is too far from what a CPU computes.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch

from aapt import checkpoint
from aapt.checkpoint import Model
from aapt.gpu_check.models import fits, known_gpu, needed_bytes, random_model, ways
from aapt.gpu_check.parity import compare
from aapt.gpu_check.ranks import measure_ranks
from aapt.gpu_check.report import Report, machine
from aapt.gpu_check.speed import Speed, forget, measure_decode, measure_steps, predict, profile_steps
from aapt.plan.gpus import GPU
from aapt.presets import LARGE_PRESETS, PRESETS, Preset
from aapt.serving import Serving, place

ALL_PRESETS = PRESETS | LARGE_PRESETS
MANY_SESSIONS = 4


class Check:
    """One run: what it tries, it writes down, and goes on."""

    def __init__(self, options: argparse.Namespace, report: Report) -> None:
        self._options = options
        self._report = report
        self._device: str = options.device
        is_gpu = torch.device(self._device).type == "cuda"
        self._gpu = known_gpu(torch.cuda.get_device_name(self._device)) if is_gpu else None
        self._ways = list(ways(self._device, is_compiled=options.is_compiled))

    def run(self) -> None:
        presets = [ALL_PRESETS[name] for name in self._options.presets]
        small = [preset for preset in presets if preset.name in PRESETS]
        made: dict[str, Callable[[], Model]] = {p.name: partial(random_model, p) for p in small}
        folder: Path = self._options.checkpoint
        if (folder / "model.json").exists():
            made[str(folder)] = partial(checkpoint.load, folder)
        else:
            self._report.left_out[str(folder)] = "there is no such checkpoint"
        for is_compiled in (False, True):  # what takes minutes to compile comes last
            ways = [each for each in self._ways if each[1].is_compiled == is_compiled]
            for name, make in made.items():
                for way, serving in ways:
                    what = f"{name}, {way}: the same latents"
                    self._try(what, partial(self._compare, name, make, way, serving))
            for preset in presets:
                if ways and self._fits(preset):
                    self._measure(preset, ways)
                    if not is_compiled:
                        self._look_inside(preset, *ways[-1])
        for ranks in self._options.ranks:
            for preset in presets:
                if self._fits(preset, ranks):
                    self._measure_ranks(preset, ranks)

    def _fits(self, preset: Preset, ranks: int = 1) -> bool:
        has_room = fits(preset, self._device, ranks)
        if not has_room:
            needed_gb = needed_bytes(preset, ranks) / 1e9
            what = f"{preset.name}, {ranks} GPUs" if ranks > 1 else preset.name
            self._report.left_out[what] = f"it needs {needed_gb:.0f} GB of each GPU, which they have not"
        return has_room

    def _compare(self, name: str, make: Callable[[], Model], way: str, serving: Serving) -> None:
        self._report.parities += compare(name, make, way, serving)

    def _measure(self, preset: Preset, ways: list[tuple[str, Serving]]) -> None:
        # Of the large ones float32 says nothing and may not fit.
        for way, serving in ways:
            if preset.name in PRESETS or serving.dtype != "float32":
                self._try(f"{preset.name}, {way}: steps", partial(self._measure_steps, preset, way, serving))

    def _look_inside(self, preset: Preset, way: str, serving: Serving) -> None:
        def decode() -> None:
            speed = measure_decode(self._model(preset, serving), serving, steps=self._options.steps)
            planned = predict(preset, self._gpu, serving)
            roofline_ms = None if planned is None else 1e3 * planned.roofline.decode_s
            self._report.decodes.append(replace(speed, roofline_ms=roofline_ms))

        def profile() -> None:
            made = profile_steps(self._model(preset, serving), way, serving, self._options.out)
            self._report.profiles.append(made)

        self._try(f"{preset.name}, {serving.dtype}: decode", decode)
        self._try(f"{preset.name}, {way}: trace", profile)

    def _measure_steps(self, preset: Preset, way: str, serving: Serving) -> None:
        for sessions in (1, MANY_SESSIONS) if preset.name in PRESETS else (1,):
            model = self._model(preset, serving)
            speed = measure_steps(model, way, serving, sessions=sessions, steps=self._options.steps)
            self._report.speeds.append(_beside_plan(speed, preset, self._gpu, serving))
            del model
            forget()

    def _measure_ranks(self, preset: Preset, ranks: int) -> None:
        for way, serving in self._ways:
            if serving.is_compiled or (serving.dtype == "float32" and self._gpu is not None):
                continue

            def measure(way: str = way, serving: Serving = serving) -> None:
                speed = measure_ranks(preset.name, ranks, way, serving, self._options.steps)
                self._report.speeds.append(_beside_plan(speed, preset, self._gpu, serving))

            self._try(f"{preset.name}, {way}: steps of {ranks} ranks", measure)

    def _model(self, preset: Preset, serving: Serving) -> Model:
        return place(random_model(preset, self._device, serving.dtype), serving)

    def _try(self, what: str, work: Callable[[], None]) -> None:
        print(what, file=sys.stderr, flush=True)
        try:
            work()
        except Exception as error:  # whatever breaks on a machine that nobody has seen belongs in the report
            said = str(error).strip().splitlines() or ["it said nothing"]
            ends = said[:1] + said[-1:] if len(said) > 1 else said  # of a rank the last line says it
            self._report.failed[what] = f"{type(error).__name__}: {' ... '.join(ends)}"
        forget()
        self._report.write(self._options.out)


def _beside_plan(speed: Speed, preset: Preset, gpu: GPU | None, serving: Serving) -> Speed:
    """`speed` with what the cost model says of one session; several share no more than the weights."""
    planned = predict(preset, gpu, serving, speed.ranks)
    if planned is None or speed.sessions > 1:
        return speed
    return replace(speed, roofline_ms=1e3 * planned.roofline.step_s, stated_ms=1e3 * planned.stated.step_s)


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    is_cpu = torch.device(options.device).type == "cpu"
    gpus = torch.cuda.device_count()
    if not is_cpu and not gpus:
        report = Report(machine("cpu"), has_device=False)
        report.write(options.out)
        print(report.text())
        return 0
    options.presets = options.presets or list(PRESETS if is_cpu else ALL_PRESETS)
    if options.ranks is None:
        options.ranks = [n for n in (2, 4, 8) if n <= gpus and not is_cpu]
    if is_cpu:
        torch.set_num_threads(1)
    report = Report(machine(options.device))
    Check(options, report).run()
    report.write(options.out)
    print(report.text())
    return 0 if report.is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda:0", help="cpu: to try the check itself")
    parser.add_argument(
        "--presets", nargs="+", choices=sorted(ALL_PRESETS), help="default: all, on a CPU the small ones"
    )
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each")
    parser.add_argument(
        "--ranks",
        nargs="*",
        type=int,
        help="GPUs that share a sample (default: 2, 4, 8, up to what there is)",
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--no-compile", dest="is_compiled", action="store_false", help="saves minutes")
    parser.add_argument("--out", type=Path, default=Path("bench/gpu-check"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
