"""`StreamingVAE`: one session's decoder, one latent in and its frames out."""

import copy

import torch

from aapt.parallel import multiplies_bfloat16
from aapt.shapes import Frames, Latent, to_frames
from aapt.vae.blocks import Tails
from aapt.vae.model import VideoVAE


def for_serving(vae: VideoVAE) -> VideoVAE:
    """A codec to decode with: in bfloat16 where the processor multiplies that itself, three times as fast.

    A pixel then differs by 2 of 255 at most. Elsewhere `vae` itself.
    """
    on_cpu = vae.mean.device.type == "cpu"
    return copy.deepcopy(vae).bfloat16() if on_cpu and multiplies_bfloat16() else vae


class StreamingVAE:
    """Decodes a session latent by latent to exactly the frames that decoding the whole clip would give.

    The codec is shared by all sessions and never changed; what a session needs to go on is kept here, on the
    codec's device. Latents come and frames go on the CPU.
    """

    def __init__(self, vae: VideoVAE) -> None:
        self._vae = vae
        self._tails: Tails | None = None

    @property
    def looks_back(self) -> int:
        """See `VideoVAE.looks_back`: who has decoded so many latents before goes on exactly."""
        return self._vae.looks_back

    @torch.inference_mode()
    def decode(self, latent: Latent) -> Frames:
        """The next latent of this session: 1 frame for the first, 4 for every other; [f, h, w, 3] uint8."""
        video, self._tails = self._vae.decode_after(latent[None, None].to(self._vae.mean), self._tails)
        return to_frames(video[0].float()).cpu()
