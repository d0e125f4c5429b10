"""VBench-I2V's dimensions (arXiv:2311.17982, arXiv:2411.13503) and the AAPT paper's aggregates of them.

    TQ = (SC + BC + MS + 0.5 DD) / 3.5        FQ = (AQ + IQ) / 2        in percent, not normalised

The networks are the user's: TorchScript files in one folder. Pictures are RGB.

| file          | what it should be                       | input                              | output      |
|---------------|-----------------------------------------|------------------------------------|-------------|
| dino.pt       | DINO ViT-B/16                           | [b,3,h,w], ImageNet-normalised     | [b,d]       |
| clip_b32.pt   | image encoder of CLIP ViT-B/32          | [b,3,224,224], CLIP-normalised     | [b,d]       |
| clip_l14.pt   | image encoder of CLIP ViT-L/14          | [b,3,224,224], CLIP-normalised     | [b,d]       |
| aesthetic.pt  | LAION's linear head for ViT-L/14        | [b,d], unit length                 | [b,1]: 0-10 |
| musiq.pt      | MUSIQ trained on SPAQ                   | [1,3,h,w] in [0,1]                 | [1]: 0-100  |
| amt.pt        | AMT-S, the frame half-way between two   | two [1,3,h,w] in [0,1]             | [1,3,h,w]   |
| raft.pt       | RAFT (things), the flow from one to two | two [1,3,h,w] in [0,255]           | [1,2,h,w]   |
| dreamsim.pt   | DreamSim's embedding                    | [b,3,224,224] in [0,1]             | [b,d]       |

Pictures are brought to size here: for DINO the shorter side is 224, for MUSIQ the longer one 512 at most, for
AMT and RAFT the sides are padded to divide by 16 and by 8.

Both I2V dimensions begin with the best match to the picture, which is frame 0 itself: they hardly say
whether a video drifts away from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from aapt.evals.backbones import MissingFile, load_backbone
from aapt.evals.videos import (
    Pictures,
    Recording,
    Scaled,
    batches,
    find_pictures,
    read_picture,
    read_video,
    resized,
    shorter_side,
    to_pictures,
)
from aapt.shapes import Frames, Picture

SOURCES = {
    "dino": "DINO ViT-B/16 (facebookresearch/dino)",
    "clip_b32": "the image encoder of CLIP ViT-B/32 (openai/CLIP)",
    "clip_l14": "the image encoder of CLIP ViT-L/14 (openai/CLIP)",
    "aesthetic": "LAION's aesthetic head for ViT-L/14 (LAION-AI/aesthetic-predictor)",
    "musiq": "MUSIQ trained on SPAQ (pyiqa)",
    "amt": "AMT-S (MCG-NKU/AMT)",
    "raft": "RAFT trained on things (princeton-vl/RAFT)",
    "dreamsim": "DreamSim's embedding (ssundaram21/dreamsim)",
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "i2v_subject",
    "i2v_background",
)
TEMPORAL, FRAME = set(DIMENSIONS[:4]), set(DIMENSIONS[4:6])
# Of the best match to the picture, of neighbours on average, of the worst neighbours.
SUBJECT_WEIGHTS, BACKGROUND_WEIGHTS = (0.5, 0.5, 0.0), (0.4, 0.3, 0.3)
SIDE_PX, MUSIQ_PX = 224, 512
FLOW_FRAMES_PER_SECOND = 8

Features = Float[Tensor, "f d"]
Flow = Callable[[Pictures, Pictures], Float[Tensor, "1 2 h w"]]


@dataclass(frozen=True)
class Backbones:
    """A folder of TorchScript files; each is read when it is first asked for."""

    folder: Path

    def load(self, name: str) -> torch.jit.ScriptModule:
        """Raises MissingFile, naming the file and where people get it."""
        return load_backbone(
            self.folder / f"{name}.pt",
            f"{SOURCES[name]} as TorchScript; its arguments are in the table of aapt/evals/vbench.py",
        )

    def dino(self) -> Callable[[Frames], Features]:
        """Unit vectors of frames."""
        return _unit(self.load("dino"), lambda x: _standard(shorter_side(x, SIDE_PX), IMAGENET))

    def clip(self, name: str = "clip_b32") -> Callable[[Frames], Features]:
        """Unit vectors of frames, cropped to the middle."""
        return _unit(self.load(name), lambda x: _standard(_middle(shorter_side(x, SIDE_PX, "bicubic")), CLIP))

    def dreamsim(self) -> Callable[[Frames], Features]:
        """Unit vectors of frames."""
        return _unit(self.load("dreamsim"), lambda x: resized(x, SIDE_PX, SIDE_PX, "bicubic"))


@torch.inference_mode()
def measure(
    videos: list[Path], backbones: Backbones, dimensions: Sequence[str], images: Path | None
) -> dict[str, float]:
    """Some of `DIMENSIONS` of all videos in percent, and the aggregates where all their parts are asked for.

    images: the pictures that the videos began with, one for each, of the same name. Raises MissingFile where
      a backbone or a picture is missing.
    """
    # What is missing is missed before any work.
    scorers = {name: _scorer(name, backbones) for name in dimensions}
    values: dict[str, list[Tensor]] = {name: [] for name in dimensions}
    for path in tqdm(videos, desc="vbench", unit="video", leave=False):
        recording = read_video(path)
        if len(recording.frames) < 3:
            raise MissingFile(f"{path} has {len(recording.frames)} frames; three or more are needed")
        picture = recording.frames[0] if images is None else read_picture(_picture_of(path, images))
        for name, score in scorers.items():
            values[name].append(torch.as_tensor(score(recording, picture)).float().reshape(-1))
    # Consistency is averaged over all frames of all videos, the others over videos.
    scores = {name: 100 * float(torch.cat(each).mean()) for name, each in values.items()}
    if scores.keys() >= TEMPORAL:
        scores["temporal_quality"] = temporal_quality(scores)
    if scores.keys() >= FRAME:
        scores["frame_quality"] = frame_quality(scores)
    return {name: round(value, 4) for name, value in scores.items()}


def temporal_quality(scores: dict[str, float]) -> float:
    """The paper's TQ of scores in percent; the weights are VBench's (dynamic degree counts half)."""
    whole = sum(
        scores[name] for name in ("subject_consistency", "background_consistency", "motion_smoothness")
    )
    return (whole + 0.5 * scores["dynamic_degree"]) / 3.5


def frame_quality(scores: dict[str, float]) -> float:
    """The paper's FQ of scores in percent."""
    return (scores["aesthetic_quality"] + scores["imaging_quality"]) / 2


def consistency(features: Features) -> Float[Tensor, " _"]:
    """Subject or background consistency of every frame but the first: how much like the frame before and the
    first frame its unit vector is; unlike counts as 0."""
    before = (features[1:] * features[:-1]).sum(-1).clamp_min(0)
    first = (features[1:] * features[:1]).sum(-1).clamp_min(0)
    return (before + first) / 2


def likeness(picture: Float[Tensor, " d"], features: Features, weights: tuple[float, float, float]) -> float:
    """I2V subject or background: of the best frame to the picture; of neighbours on average; of the worst
    neighbours."""
    to_picture = (features @ picture).clamp_min(0)
    neighbours = (features[1:] * features[:-1]).sum(-1).clamp_min(0)
    best, mean, worst = weights
    return float(best * to_picture.max() + mean * neighbours.mean() + worst * neighbours.min())


def motion_smoothness(frames: Frames, halfway: Callable[[Pictures, Pictures], Pictures]) -> float:
    """How well every other frame is guessed from its two neighbours: 1 - mean absolute error."""
    errors = []
    for i in range(1, len(frames) - 1, 2):
        before, true, after = (to_pictures(frames[k : k + 1]) for k in (i - 1, i, i + 1))
        made = _padded(halfway, before, after, 16).clamp(0, 1)
        errors.append((made - true).abs().mean())
    return 1 - float(torch.stack(errors).mean())


def is_dynamic(recording: Recording, flow: Flow) -> bool:
    """Whether the video moves: at about 8 frames a second, a quarter of the frames see the fastest 5 % of
    their pixels move by more than 6 pixels in 256."""
    rate = recording.frames_per_second
    frames = recording.frames[:: max(1, round(rate / FLOW_FRAMES_PER_SECOND))]
    threshold_px = max(1.0, FLOW_FRAMES_PER_SECOND / rate) * 6 * min(frames.shape[1:3]) / 256
    needed = max(1, round(4 * len(frames) / 16))
    moving = 0
    for before, after in pairwise(frames):
        lengths = moved_px(before, after, flow).flatten()
        moving += bool(lengths.topk(max(1, int(0.05 * len(lengths)))).values.mean() > threshold_px)
        if moving >= needed:
            return True
    return False


def moved_px(before: Picture, after: Picture, flow: Flow) -> Float[Tensor, "h w"]:
    """How far every pixel moves from one frame to the next."""
    one, two = (255 * to_pictures(each[None]) for each in (before, after))
    return _padded(flow, one, two, 8).norm(dim=1)[0]


def aesthetic_quality(features: Features, head: Callable[[Features], Tensor]) -> float:
    """LAION's score of the frames' CLIP vectors, a tenth of it."""
    return float(head(features).mean()) / 10


def imaging_quality(frames: Frames, musiq: Callable[[Pictures], Tensor]) -> float:
    """MUSIQ's score, a hundredth of it; the longer side is brought down to 512."""
    scores = []
    for picture in batches(frames, 1):
        height, width = picture.shape[-2:]
        scale = min(1.0, MUSIQ_PX / max(height, width))
        scores.append(musiq(resized(picture, int(height * scale), int(width * scale))).mean())
    return float(torch.stack(scores).mean()) / 100


def _scorer(name: str, backbones: Backbones) -> Callable[[Recording, Picture], float | Tensor]:
    if name in ("subject_consistency", "background_consistency"):
        features = backbones.dino() if name == "subject_consistency" else backbones.clip()
        return lambda video, picture: consistency(features(video.frames))
    if name in ("i2v_subject", "i2v_background"):
        features, weights = (
            (backbones.dino(), SUBJECT_WEIGHTS)
            if name == "i2v_subject"
            else (backbones.dreamsim(), BACKGROUND_WEIGHTS)
        )
        return lambda video, picture: likeness(features(picture[None])[0], features(video.frames), weights)
    if name == "aesthetic_quality":
        features, head = backbones.clip("clip_l14"), backbones.load("aesthetic")
        return lambda video, picture: aesthetic_quality(features(video.frames), head)
    if name == "motion_smoothness":
        halfway = backbones.load("amt")
        return lambda video, picture: motion_smoothness(video.frames, halfway)
    if name == "dynamic_degree":
        flow = backbones.load("raft")
        return lambda video, picture: is_dynamic(video, flow)
    musiq = backbones.load("musiq")
    return lambda video, picture: imaging_quality(video.frames, musiq)


def _picture_of(video: Path, images: Path) -> Path:
    for path in find_pictures(images):
        if path.stem == video.stem:
            return path
    raise MissingFile(f"{images} holds no picture named {video.stem}: the one that {video} began with")


def _unit(
    network: torch.jit.ScriptModule, prepare: Callable[[Pictures], Pictures]
) -> Callable[[Frames], Features]:
    def features(frames: Frames) -> Features:
        left = [network(prepare(part)).float().flatten(1) for part in batches(frames)]
        return nn.functional.normalize(torch.cat(left), dim=-1)

    return features


def _standard(pictures: Pictures, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Pictures:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in statistics)
    return (pictures - mean) / deviation


def _middle(pictures: Pictures) -> Scaled:
    top, left = ((side - SIDE_PX) // 2 for side in pictures.shape[-2:])
    return pictures[..., top : top + SIDE_PX, left : left + SIDE_PX]


def _padded(
    network: Callable[[Pictures, Pictures], Tensor], before: Pictures, after: Pictures, multiple: int
) -> Tensor:
    """`network` of two pictures whose sides are made to divide by `multiple`, and its answer cut back."""
    height, width = before.shape[-2:]
    tall, wide = -height % multiple, -width % multiple
    border = (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)
    padded = (nn.functional.pad(each, border, mode="replicate") for each in (before, after))
    made = network(*padded)
    return made[..., border[2] : border[2] + height, border[0] : border[0] + width]
