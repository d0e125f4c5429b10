"""How long a step of each stage takes on this machine: `python -m aapt.train.bench --preset road`.

Clips of random numbers: what is learnt does not matter to the clock.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch

from aapt.checkpoint import Model, untrained
from aapt.parallel import multiplies_bfloat16
from aapt.presets import PRESETS, Preset
from aapt.shapes import FRAMES_PER_LATENT
from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import Distill, DistillConfig
from aapt.train.pretrain import Pretrain, PretrainConfig
from aapt.worlds.latents import Clips, EncodedEpisode

CLIPS, LENGTH = 4, 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aapt.train.bench", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="road")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="the median counts")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numbers = measure(PRESETS[options.preset], options.repeats)
    print(f"{CLIPS} clips of {LENGTH} latents, {options.threads} thread(s), median of {options.repeats}")
    for name, seconds in numbers.items():
        print(f"{name:<44} {seconds:8.3f} s")
    if options.json:
        print(json.dumps(numbers))


def measure(preset: Preset, repeats: int) -> dict[str, float]:
    """Seconds of a step of every stage without its optimizer, and of the parts of stage 3."""
    model = untrained(preset)
    clips = _random_clips(model)
    stages: dict[str, Pretrain | Adapt | Distill] = {
        "before stage 1, bidirectional": Pretrain(model, clips, clips, PretrainConfig(CLIPS, LENGTH)),
        "stage 1, adaptation": Adapt(model, clips, clips, AdaptConfig(CLIPS, LENGTH)),
        "stage 2, distillation": Distill(model, clips, clips, DistillConfig(CLIPS, LENGTH)),
    }
    numbers = {}
    for name, stage in stages.items():
        batch = stage.draw(torch.Generator().manual_seed(0))
        numbers[name] = _median_s(partial(stage.learn, batch, torch.Generator()), repeats)
    config = AdversarialConfig(CLIPS, LENGTH)
    adversarial = Adversarial(model, model.dit, clips, clips, config)
    segments = adversarial.draw(torch.Generator().manual_seed(0))
    numbers["stage 3, a segment: played (no gradients)"] = _median_s(
        lambda: next(adversarial.play(torch.Generator())), repeats
    )
    numbers["stage 3, a segment: again, with gradients"] = _median_s(
        lambda: adversarial.again(segments[0]).sum().backward(), repeats
    )
    numbers["stage 3, a segment: the generator's turn"] = _median_s(
        lambda: adversarial.learn_generator(segments, torch.Generator()), repeats
    )
    numbers["stage 3, a segment: the discriminator's turn"] = _median_s(
        lambda: adversarial.learn_discriminator(segments, torch.Generator()), repeats
    )
    return {name: round(seconds, 4) for name, seconds in numbers.items()}


def _random_clips(model: Model) -> Clips:
    preset, random = model.preset, torch.Generator().manual_seed(0)
    latents = torch.randn(8 * LENGTH, *preset.latent_shape, generator=random)
    controls = torch.zeros(len(latents), FRAMES_PER_LATENT, model.dit.controls.values_per_frame)
    return Clips([EncodedEpisode(latents[::4], latents, controls, preset.prompt)], model.text)


def _median_s(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16(), cache_enabled=False):
            work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])  # the first warms up


if __name__ == "__main__":
    main()
