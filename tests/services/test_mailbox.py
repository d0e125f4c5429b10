"""Where controls wait for the tick."""

import torch

from livevideo.v1.control_pb2 import CameraPose, ControlEvent, Keys, Look, Prompt
from services.engine.latents import to_message
from services.engine.mailbox import Mailbox
from services.engine.residence import Made

KEYS = ("left", "right", "up", "down")


def put(mailbox: Mailbox, seq: int, *down: str, at_s: float = 0.0) -> None:
    event = ControlEvent(seq=seq, keys=Keys(down=down))
    mailbox.put(event, received_at_s=at_s, path_s=0.0, now_s=at_s)


def test_keys_stay_held_until_they_are_let_go_and_come_in_the_models_order() -> None:
    mailbox = Mailbox(KEYS)
    put(mailbox, 1, "up", "left")
    assert [mailbox.take().keys for _ in range(3)] == [(1, 0, 1, 0)] * 3
    put(mailbox, 2, "up")
    assert mailbox.take().keys == (0, 0, 1, 0)


def test_a_tap_between_two_ticks_is_seen_by_exactly_one() -> None:
    mailbox = Mailbox(KEYS)
    put(mailbox, 1, "right")
    put(mailbox, 2)
    assert [mailbox.take().keys for _ in range(2)] == [(0, 1, 0, 0), (0, 0, 0, 0)]


def test_a_tick_names_every_control_that_it_is_the_first_to_obey() -> None:
    mailbox = Mailbox(KEYS)
    put(mailbox, 3, "up", at_s=1.0)
    put(mailbox, 4, at_s=2.0)
    turn = mailbox.take()
    assert (turn.seqs, turn.control_seq, turn.received_at_s) == ((3, 4), 4, 2.0)
    assert (mailbox.take().seqs, mailbox.take().control_seq) == ((), 4)


def test_angles_add_up_and_of_poses_the_newest_wins() -> None:
    mailbox = Mailbox(KEYS)
    for seq, yaw in ((1, 0.25), (2, 0.5)):
        look = ControlEvent(seq=seq, look=Look(yaw_rad=yaw))
        mailbox.put(look, received_at_s=0, path_s=0, now_s=0)
    for seq, x in ((3, 1.0), (4, 2.0)):
        camera = ControlEvent(seq=seq, camera=CameraPose(position_m=[x, 0, 0]))
        mailbox.put(camera, received_at_s=0, path_s=0, now_s=0)
    turn = mailbox.take()
    assert turn.yaw_rad == 0.75
    assert turn.camera is not None
    assert turn.camera.position_m[0] == 2.0
    assert mailbox.take().yaw_rad == 0


def test_a_prompt_is_told_once() -> None:
    mailbox = Mailbox(KEYS)
    mailbox.put(ControlEvent(seq=1, prompt=Prompt(text="snow")), received_at_s=0, path_s=0, now_s=0)
    assert [mailbox.take().prompt for _ in range(2)] == ["snow", None]


def test_a_control_that_came_before_changes_nothing() -> None:
    mailbox = Mailbox(KEYS)
    put(mailbox, 5, "up")
    put(mailbox, 5, "down")
    put(mailbox, 4, "left")
    assert mailbox.take().keys == (0, 0, 1, 0)


def test_a_session_taken_up_elsewhere_knows_what_is_held_and_taps_nothing_twice() -> None:
    before = Mailbox(KEYS)
    put(before, 1, "up")
    put(before, 2, "up", "left")
    put(before, 3, "up")
    turn = before.take()
    assert (turn.keys, turn.held) == ((1, 0, 1, 0), ("up",))
    mailbox = Mailbox.after(KEYS, to_message(Made(9, torch.zeros(1, 1, 1), torch.zeros(4, 4), turn)))
    put(mailbox, 3, "left")
    turn = mailbox.take()
    assert (turn.keys, turn.seqs, turn.control_seq) == ((0, 0, 1, 0), (), 3)


def test_a_session_taken_up_elsewhere_knows_its_prompt_and_its_poses() -> None:
    before = Mailbox(KEYS, prompt="rain")
    for seq, event in enumerate((Prompt(text="snow"), CameraPose(position_m=[1, 2, 3])), 1):
        track = {"prompt" if isinstance(event, Prompt) else "camera": event}
        before.put(ControlEvent(seq=seq, **track), received_at_s=0, path_s=0, now_s=0)  # type: ignore[arg-type]
    latent = to_message(Made(9, torch.zeros(1, 1, 1), torch.zeros(4, 4), before.take()))
    turn = Mailbox.after(KEYS, latent).take()
    assert (turn.standing_prompt, turn.prompt) == ("snow", None)
    assert turn.camera is not None
    assert list(turn.camera.position_m) == [1, 2, 3]
