"""One legend for every tensor of this library.

b  clips in a batch             f  video frames (1 + 4·k of them)
t  latent frames (1 + k)        c  latent channels
h, w  height and width, pixels  y, x  height and width of a latent: h/8, w/8
n  tokens (of one latent: y/2 · x/2)
l  text tokens                  d  width of the network
a  attention heads              e  width of a head
k  control values per video frame   m  control channels per latent
"""

from jaxtyping import Float, UInt8
from torch import Tensor

FRAMES_PER_LATENT = 4
SPATIAL_REDUCTION = 8

Video = Float[Tensor, "b f 3 h w"]  # values in [-1, 1]
Frames = UInt8[Tensor, "f h w 3"]  # what a screen shows
Picture = UInt8[Tensor, "h w 3"]
Latents = Float[Tensor, "b t c y x"]  # normalised: every channel has mean 0 and variance 1 over the data
Latent = Float[Tensor, "c y x"]
Controls = Float[Tensor, "b t 4 k"]  # row t: the controls of the 4 video frames that latent t decodes to
ControlMaps = Float[Tensor, "b t m y x"]  # the same, encoded at the latents' size
Text = Float[Tensor, "b l d"]


def first_frame(latent_index: int) -> int:
    """Index of the first video frame of a latent: latent 0 is one frame, every other one four."""
    return max(0, FRAMES_PER_LATENT * (latent_index - 1) + 1)


def latent_of(frame_index: int) -> int:
    """Index of the latent that a video frame belongs to."""
    return (frame_index + FRAMES_PER_LATENT - 1) // FRAMES_PER_LATENT


def to_video(frames: Frames) -> Float[Tensor, "f 3 h w"]:
    """Bytes as the codec wants them: channels first, in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_frames(video: Float[Tensor, "f 3 h w"]) -> Frames:
    """What the codec made as bytes, rounded and clipped."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
