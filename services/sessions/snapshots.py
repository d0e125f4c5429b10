"""Snapshots in Redis: what is left of a session whose engine and decoder have both died."""

from typing import Any

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.resume_pb2 import ObeyedControl, RecallResponse, SnapshotRequest
from livevideo.v1.session_pb2 import FollowResponse

# KEYS session, snapshot. ARGV epoch, SnapshotRequest, kept_ms.
KEEP = """
local found = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed'} end
if tonumber(found[2]) > tonumber(ARGV[1]) then return {'superseded'} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {'ok'}
"""


async def recalled(
    redis: Any, session_key: str, snapshot_key: str, controls_key: str, receipts_key: str
) -> RecallResponse:
    """The snapshot, and the controls after it that an engine says it has obeyed, with the place where.

    One that two engines obeyed counts where the later one did: what the earlier one made of it was not seen.
    A prompt that the log has lost stands in front of what it still has.
    """
    recall = RecallResponse()
    if kept := await redis.get(snapshot_key):
        recall.snapshot.CopyFrom(SnapshotRequest.FromString(kept))
    known_seq = recall.snapshot.past[-1].control_seq if recall.snapshot.past else 0
    controls = await redis.xrange(controls_key, min=f"{known_seq + 1}-0")
    receipts = await redis.xrange(receipts_key) if controls else []
    kept_prompt = await redis.hget(session_key, "prompt") if controls else None
    obeyed_at = dict[int, int]()
    for _, fields in receipts:
        if b"receipt" in fields:
            receipt = ControlReceipt.FromString(fields[b"receipt"])
            obeyed_at[receipt.seq] = receipt.obeyed.frame_index
    prompt = FollowResponse.FromString(kept_prompt) if kept_prompt else None
    for _, fields in controls:
        if b"control" in fields:
            control = FollowResponse.FromString(fields[b"control"])
            if prompt is not None and known_seq < prompt.event.seq < control.event.seq:
                frame_index = obeyed_at.get(prompt.event.seq, 0)
                recall.obeyed.append(ObeyedControl(control=prompt, frame_index=frame_index))
            prompt = None
            if control.event.seq in obeyed_at:
                frame_index = obeyed_at[control.event.seq]
                recall.obeyed.append(ObeyedControl(control=control, frame_index=frame_index))
    return recall
