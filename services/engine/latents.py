"""Latents as messages, there and back."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from aapt.rollout import Past
from aapt.shapes import FRAMES_PER_LATENT
from livevideo.v1.engine_pb2 import Held, Latent, StageTimes
from services.engine.residence import Made
from services.errors import BadRequest


def to_message(made: Made) -> Latent:
    """One latent as the decoder gets it."""
    turn = made.turn
    return Latent(
        index=made.index,
        values=made.latent.numpy().astype("<f4", copy=False).tobytes(),
        shape=made.latent.shape,
        control_seq=turn.control_seq,
        control_received_at_s=turn.received_at_s,
        controls=made.controls.flatten().tolist(),
        made_at_s=made.made_at_s,
        held=Held(keys=turn.held, camera=turn.camera, body=turn.body, prompt=turn.standing_prompt),
        times=StageTimes(control_path_s=turn.path_s, tick_wait_s=made.tick_wait_s, step_s=made.step_s),
    )


def to_past(latents: Sequence[Latent], keys: int) -> Past:
    """What a decoder kept of a session. Raises BadRequest where a latent is not one."""
    values, controls = dict[int, Tensor](), dict[int, Tensor]()
    if any(later.index <= earlier.index for earlier, later in pairwise(latents)):
        raise BadRequest("start.past", "latents must come in the order of their indices, each once")
    for latent in latents:
        if len(latent.shape) != 3 or len(latent.values) != 4 * int(np.prod(latent.shape)):
            raise BadRequest(
                "start.past",
                f"latent {latent.index} has {len(latent.values)} bytes and shape {list(latent.shape)};"
                " it needs 4 bytes for each of channels x height x width values",
            )
        if len(latent.controls) != FRAMES_PER_LATENT * keys:
            raise BadRequest(
                "start.past",
                f"latent {latent.index} has {len(latent.controls)} control values; it needs"
                f" {FRAMES_PER_LATENT} rows of {keys}",
            )
        array = np.frombuffer(latent.values, "<f4").reshape(tuple(latent.shape)).astype(np.float32)
        if not np.isfinite(array).all():
            raise BadRequest("start.past", f"latent {latent.index} holds values that are not finite")
        values[latent.index] = torch.from_numpy(array)
        controls[latent.index] = torch.tensor(list(latent.controls)).view(FRAMES_PER_LATENT, keys)
    return Past(values, controls)
