"""Models on disk, whole, cut short, and somebody else's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aapt.checkpoint import BadCheckpoint, load, load_vae, save, untrained
from aapt.presets import DEBUG, ROAD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(untrained(DEBUG, seed=3), tmp_path / "debug", {"steps": 0})
    return tmp_path / "debug"


def test_a_model_comes_back_as_it_was_saved_but_for_half_precision(folder: Path) -> None:
    saved, loaded = untrained(DEBUG, seed=3), load(folder)
    assert loaded.preset == DEBUG
    for network in ("dit", "vae"):
        for name, value in getattr(saved, network).state_dict().items():
            torch.testing.assert_close(getattr(loaded, network).state_dict()[name], value.half().float())
    assert loaded.starts[0].shape == (32, 32, 3)


def test_the_codec_can_be_loaded_alone(folder: Path) -> None:
    (folder / "dit.safetensors").unlink()
    assert load_vae(folder).config == DEBUG.vae


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match=r"dit\.safetensors cannot be read"):
        load(folder)


def test_a_foreign_checkpoint_is_told_from_ours(folder: Path) -> None:
    save(untrained(ROAD), folder.parent / "road", {})
    (folder.parent / "road" / "dit.safetensors").rename(folder / "dit.safetensors")
    with pytest.raises(BadCheckpoint, match=r"belongs to another model.*tensors differ"):
        load(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"preset": "tetris"}', '{"preset": ["debug"]}', "[1]", "\x00\x01", "[" * 10_000, "9" * 5000],
)
def test_a_folder_that_does_not_say_what_it_is_is_refused(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"model\.json"):
        load(folder)


def test_a_missing_folder_a_missing_file_and_a_picture_of_the_wrong_size_are_named(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match="not a checkpoint folder"):
        load(folder / "nowhere")
    save(untrained(ROAD), folder.parent / "road", {})
    (folder.parent / "road" / "starts" / "00.png").replace(folder / "starts" / "00.png")
    with pytest.raises(BadCheckpoint, match=r"00\.png is 128x80; debug needs 32x32"):
        load(folder)
    (folder / "vae.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"vae\.safetensors is missing"):
        load_vae(folder)


def test_a_folder_in_the_place_of_a_file_and_a_file_in_the_place_of_a_folder_are_named(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"dit\.safetensors is not a checkpoint folder"):
        load(folder / "dit.safetensors")
    for name in ("dit.safetensors", "model.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(BadCheckpoint, match=f"{name} cannot be read"):
            load(folder)


@pytest.mark.parametrize("damaged", ["cut short", "no picture", "a folder"])
def test_a_first_picture_that_cannot_be_read_is_named(folder: Path, damaged: str) -> None:
    path = folder / "starts" / "00.png"
    whole = path.read_bytes()
    path.unlink()
    match damaged:
        case "cut short":
            path.write_bytes(whole[: len(whole) * 3 // 4])
        case "no picture":
            path.write_text("a road")
        case _:
            path.mkdir()
    with pytest.raises(BadCheckpoint, match=r"00\.png cannot be read as a picture"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_instead_of_played(folder: Path, value: float) -> None:
    path = folder / "dit.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name].view(-1)[0] = value
    save_file(weights, path)
    with pytest.raises(BadCheckpoint, match=rf"dit\.safetensors holds weights .* 1 tensors, first '{name}'"):
        load(folder)


def test_the_shipped_model_loads_and_is_small_enough_for_every_clone() -> None:
    shipped = Path(__file__).parents[2] / "checkpoints" / "road"
    assert load(shipped).preset == ROAD
    assert sum(path.stat().st_size for path in shipped.glob("*.safetensors")) <= 20_000_000
