"""The codec: sizes, causality, and streaming that equals decoding at once."""

import copy

import pytest
import torch

from aapt.presets import DEBUG
from aapt.shapes import to_frames, to_video
from aapt.vae import streaming
from aapt.vae.model import VideoVAE
from aapt.vae.streaming import StreamingVAE, for_serving


@pytest.fixture
def vae() -> VideoVAE:
    torch.manual_seed(0)
    made = VideoVAE(DEBUG.vae).eval()
    made.mean.uniform_(-1, 1)
    made.std.uniform_(0.5, 2)
    return made


def test_four_frames_become_one_latent_and_the_first_frame_stands_alone(vae: VideoVAE) -> None:
    latents = vae.encode(torch.rand(2, 13, 3, 32, 40))
    assert latents.shape == (2, 4, 4, 4, 5)
    assert vae.decode(latents).shape == (2, 13, 3, 32, 40)


def test_decoding_latent_by_latent_equals_decoding_the_clip(vae: VideoVAE) -> None:
    latents = torch.randn(1, 6, 4, 4, 4)
    with torch.inference_mode():
        whole = to_frames(vae.decode(latents)[0])
    streaming = StreamingVAE(vae)
    parts = [streaming.decode(latent) for latent in latents[0]]
    assert [len(part) for part in parts] == [1, 4, 4, 4, 4, 4]
    assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1  # one rounding


def test_two_sessions_share_a_codec_and_nothing_else(vae: VideoVAE) -> None:
    mine, yours = torch.randn(4, 4, 4, 4), torch.randn(4, 4, 4, 4)
    alone = StreamingVAE(vae)
    expected = [alone.decode(latent) for latent in mine]
    first, second = StreamingVAE(vae), StreamingVAE(vae)
    for i in range(4):
        assert torch.equal(first.decode(mine[i]), expected[i])
        second.decode(yours[i])


def test_later_latents_do_not_change_earlier_frames(vae: VideoVAE) -> None:
    latents = torch.randn(1, 4, 4, 4, 4)
    changed = latents.clone()
    changed[:, 3] += 1
    before, after = vae.decode(latents), vae.decode(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_a_latent_does_not_depend_on_where_the_recording_was_cut(vae: VideoVAE) -> None:
    video = torch.rand(1, 13, 3, 32, 32)
    torch.testing.assert_close(vae.encode(video)[:, 2:], vae.encode(video[:, 4:])[:, 1:])


@pytest.mark.parametrize("shape", [(1, 4, 3, 32, 32), (1, 5, 3, 30, 32), (1, 5, 3, 32, 33)])
def test_a_clip_that_does_not_divide_is_refused_with_its_size(vae: VideoVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        vae.encode(torch.rand(shape))


def test_frames_survive_the_way_to_video_and_back() -> None:
    frames = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    assert torch.equal(to_frames(to_video(frames)), frames)


def test_a_codec_in_half_precision_makes_the_same_frames_but_for_a_shade(vae: VideoVAE) -> None:
    latents = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    exact, served = StreamingVAE(vae), StreamingVAE(copy.deepcopy(vae).bfloat16())
    for latent in latents:
        shade = (exact.decode(latent).int() - served.decode(latent).int()).abs()
        assert shade.max() <= 4


def test_a_processor_that_emulates_bfloat16_is_spared(vae: VideoVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "multiplies_bfloat16", lambda: False)
    assert for_serving(vae) is vae
    monkeypatch.setattr(streaming, "multiplies_bfloat16", lambda: True)
    assert for_serving(vae).mean.dtype is torch.bfloat16
    assert vae.mean.dtype is torch.float32


def test_a_codec_that_comes_late_needs_only_the_latents_that_it_looks_back_to(vae: VideoVAE) -> None:
    latents = torch.randn(8, 4, 4, 4)
    always, late = StreamingVAE(vae), StreamingVAE(vae)
    shown = [always.decode(latent) for latent in latents]
    for latent in latents[5 - late.looks_back : 5]:
        late.decode(latent)
    assert all(torch.equal(late.decode(latents[i]), shown[i]) for i in range(5, 8))
