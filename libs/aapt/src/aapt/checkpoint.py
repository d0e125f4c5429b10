"""Models on disk: a folder with the preset's name, the weights of network and codec, and first pictures.

checkpoints/road/
  model.json          preset, and what the weights were trained with
  dit.safetensors     half precision; loaded as float32
  vae.safetensors
  starts/*.png        pictures to begin with
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from aapt.dit.model import DiT
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import PRESETS, Preset
from aapt.shapes import Picture
from aapt.text import HashedWords
from aapt.vae.model import VideoVAE


class BadCheckpoint(ValueError):
    """A checkpoint folder is missing something, is cut short, or belongs to another model."""


@dataclass
class Model:
    """All that a session needs: the network, the codec, the reader of prompts, and pictures to begin with."""

    preset: Preset
    dit: DiT
    vae: VideoVAE
    text: HashedWords
    starts: list[Picture] = field(default_factory=list)


def untrained(preset: Preset, seed: int = 0, parallel: SequenceParallel = ALONE) -> Model:
    """A model with random weights, grey first pictures and nothing to show; for tests and for training.

    parallel: the ranks that work on one sample together, each with such a model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dit = DiT(preset.dit, parallel)
        vae = VideoVAE(preset.vae)
    text = HashedWords(preset.dit.text_tokens, preset.dit.text_dim)
    grey = torch.full((1, preset.height_px, preset.width_px, 3), 128, dtype=torch.uint8)
    return Model(preset, dit.eval(), vae.eval(), text, [grey[0]])


def save(model: Model, folder: Path, trained_with: dict[str, object]) -> None:
    """Write `model` as a checkpoint folder, weights in half precision."""
    (folder / "starts").mkdir(parents=True, exist_ok=True)
    for name, network in (("dit", model.dit), ("vae", model.vae)):
        weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors", metadata={"preset": model.preset.name})
    for i, picture in enumerate(model.starts):
        Image.fromarray(picture.numpy()).save(folder / "starts" / f"{i:02d}.png")
    about = {"preset": model.preset.name, "sizes": asdict(model.preset), "trained_with": trained_with}
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")


def load(folder: Path, parallel: SequenceParallel = ALONE) -> Model:
    """Read a checkpoint folder. Raises BadCheckpoint, naming the file and what is wrong with it."""
    model = untrained(read_preset(folder), parallel=parallel)
    _load_weights(model.dit, folder / "dit.safetensors")
    _load_weights(model.vae, folder / "vae.safetensors")
    model.starts = _load_starts(folder, model.preset)
    return model


def load_vae(folder: Path) -> VideoVAE:
    """The codec alone, for those who only decode. Raises BadCheckpoint."""
    vae = VideoVAE(read_preset(folder).vae)
    _load_weights(vae, folder / "vae.safetensors")
    return vae.eval()


def read_preset(folder: Path) -> Preset:
    """The preset of a checkpoint folder. Raises BadCheckpoint."""
    path = folder / "model.json"
    try:
        name = json.loads(path.read_text())["preset"]
    except (FileNotFoundError, NotADirectoryError):
        raise BadCheckpoint(f"{folder} is not a checkpoint folder: it has no model.json") from None
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read ({error.strerror}); fetch the folder again") from None
    except (ValueError, RecursionError, KeyError, TypeError):  # no text, no JSON, no object, no preset
        raise BadCheckpoint(
            f"{path} does not say which preset it is; write the folder again with aapt.train"
        ) from None
    if not isinstance(name, str) or name not in PRESETS:
        raise BadCheckpoint(f"{path} names preset {name!r}; this version has {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def fill(network: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put what was read from `path` into `network`.

    Raises BadCheckpoint where it belongs to another model or is broken.
    """
    expected = network.state_dict()
    wrong = [key for key in expected.keys() | weights.keys() if _shape(expected, key) != _shape(weights, key)]
    if wrong:
        key = min(wrong)
        raise BadCheckpoint(
            f"{path} belongs to another model: {len(wrong)} tensors differ, first {key!r}"
            f" (file: {_shape(weights, key)}, this preset: {_shape(expected, key)})"
        )
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise BadCheckpoint(
            f"{path} holds weights that are no finite numbers: {len(broken)} tensors, first {min(broken)!r};"
            " take a checkpoint from before its training broke"
        )
    network.load_state_dict({key: value.float() for key, value in weights.items()})


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read ({error}); it may have been cut short: fetch it again"
        ) from None
    fill(network, weights, path)


def _shape(weights: dict[str, torch.Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None


def _load_starts(folder: Path, preset: Preset) -> list[Picture]:
    paths = sorted((folder / "starts").glob("*.png"))
    if not paths:
        raise BadCheckpoint(f"{folder / 'starts'} has no picture to begin with")
    pictures = [_load_picture(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != (preset.height_px, preset.width_px, 3):
            raise BadCheckpoint(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}; {preset.name} needs"
                f" {preset.width_px}x{preset.height_px}"
            )
    return pictures


def _load_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read as a picture ({error}); it may have been cut short: fetch it again"
        ) from None
