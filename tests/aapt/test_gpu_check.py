"""The check of GPUs, tried on a CPU; what it says where there is none, where something breaks, and where
something is wrong."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from aapt.checkpoint import Model
from aapt.gpu_check import __main__ as command
from aapt.gpu_check.models import fits, known_gpu, needed_bytes, random_model, ways
from aapt.gpu_check.parity import Parity, compare
from aapt.gpu_check.speed import measure_steps, predict
from aapt.plan.gpus import A100, GPUS, H100
from aapt.presets import AAPT_8B, DEBUG, PRESETS
from aapt.serving import AS_IT_IS, Serving

TRIED = ["--device", "cpu", "--presets", "debug", "--no-compile", "--steps", "3", "--checkpoint", "nowhere"]


def test_where_there_is_no_gpu_the_report_says_so_and_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert command.main(["--out", str(tmp_path)]) == 0
    assert "No GPU was found" in capsys.readouterr().out
    assert "No GPU was found" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["has_device"] is False


def test_everything_is_tried_and_written_down(tmp_path: Path) -> None:
    assert command.main([*TRIED, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert [(each["way"], each["what"]) for each in found["parities"]] == [
        (way, what)
        for way in ("float32", "float32, fixed shapes", "bfloat16")
        for what in ("latents", "frames")
    ]
    assert all(each["is_close"] for each in found["parities"])
    assert {(each["way"], each["sessions"]) for each in found["speeds"]} == {
        (way, sessions) for way in ("float32", "float32, fixed shapes", "bfloat16") for sessions in (1, 4)
    }
    for each in found["speeds"]:
        assert each["frames_per_s"] == pytest.approx(4000 / each["step_ms"])
    assert found["decodes"][0]["decode_ms"] > 0
    assert found["left_out"] == {"nowhere": "there is no such checkpoint"}
    (profile,) = found["profiles"]
    with gzip.open(tmp_path / profile["trace"]) as trace:
        assert json.load(trace)["traceEvents"]
    page = (tmp_path / "report.md").read_text()
    assert all(name in page for name, _ in profile["kernels"])
    assert page.endswith("All that was tried works.\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_of_this_machine_computes_what_its_cpu_does(tmp_path: Path) -> None:
    tried = ["--presets", "debug", "road", "maze", "--no-compile", "--steps", "5", "--ranks"]
    assert command.main([*tried, "--out", str(tmp_path)]) == 0, (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_ranks_that_share_a_sample_are_timed_too(tmp_path: Path) -> None:
    assert command.main([*TRIED, "--ranks", "2", "--out", str(tmp_path)]) == 0
    speeds = json.loads((tmp_path / "report.json").read_text())["speeds"]
    shared = [each["way"] for each in speeds if each["ranks"] == 2]
    assert shared == ["float32", "float32, fixed shapes", "bfloat16"]


def test_what_breaks_is_written_down_and_the_rest_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of luck\nsaid in full elsewhere\nthe end")

    monkeypatch.setattr(command, "measure_decode", broken)
    assert command.main([*TRIED, "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["failed"] == {"debug, bfloat16: decode": "RuntimeError: CUDA error: out of luck ... the end"}
    assert found["profiles"]
    assert "out of luck" in (tmp_path / "report.md").read_text()


def test_another_network_is_found_too_far() -> None:
    made: list[Model] = []

    def make() -> Model:
        made.append(random_model(DEBUG))
        if len(made) == 2:
            with torch.no_grad():
                made[1].dit.blocks[0].modulation.add_(0.1)  # type: ignore[operator]
        return made[-1]

    latents, frames = compare("debug", make, "float32", AS_IT_IS)
    assert not latents.is_close
    assert frames.is_close  # the codec is the same
    assert not Parity("debug", "float32", "latents", 1, float("nan"), 1.0).is_close


def test_random_weights_are_the_same_each_time_and_drawn_in_their_precision() -> None:
    one, other = random_model(DEBUG), random_model(DEBUG)
    assert all(torch.equal(a, b) for a, b in zip(one.dit.parameters(), other.dit.parameters(), strict=True))
    assert one.dit.head.weight.any()
    half = random_model(DEBUG, dtype="bfloat16")
    assert {p.dtype for p in (*half.dit.parameters(), *half.vae.parameters())} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert measure_steps(half, "bfloat16", Serving(dtype="bfloat16"), steps=2).step_ms > 0


def test_a_gpu_is_tried_from_the_plainest_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    names = ["float32", "bfloat16", "bfloat16, graphs", "bfloat16, compiled, graphs"]
    assert [name for name, _ in ways("cuda:0", is_compiled=True)] == names
    assert [name for name, _ in ways("cuda:0", is_compiled=False)] == names[:3]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    *_, (name, serving) = ways("cuda:0", is_compiled=True)
    assert name == "fp8, compiled, graphs"
    assert serving.fp8


def test_a_preset_that_a_gpu_has_no_room_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * 10**9))
    assert fits(DEBUG, "cuda:0")
    assert not fits(AAPT_8B, "cuda:0")
    assert fits(AAPT_8B, "cuda:0", ranks=4)
    assert needed_bytes(AAPT_8B) / 1e9 == pytest.approx(27, abs=1)
    assert all(fits(preset, "cpu") for preset in PRESETS.values())


def test_a_gpu_is_known_by_the_name_that_it_says() -> None:
    assert known_gpu("NVIDIA H100 80GB HBM3") is H100
    assert known_gpu("NVIDIA A100-SXM4-80GB") is A100
    assert known_gpu("NVIDIA H200") is GPUS["h200"]
    assert known_gpu("NVIDIA GeForce RTX 4090") is None
    planned = predict(AAPT_8B, H100, Serving("cuda:0", "bfloat16"))
    assert planned is not None
    assert 1e3 * planned.roofline.step_s == pytest.approx(30.6, rel=0.03)
    assert predict(AAPT_8B, H100, Serving("cuda:0")) is None  # the model has no rate for float32
    assert predict(AAPT_8B, None, Serving("cuda:0", "bfloat16")) is None
