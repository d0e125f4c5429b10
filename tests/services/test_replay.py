"""A session is played again from what its engines wrote down, through kills and prompts, to the bit."""

from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor

from aapt import checkpoint
from aapt.presets import PRESETS
from aapt.rollout import Past, Rollout
from livevideo.v1.log_pb2 import LogEntry
from livevideo.v1.session_pb2 import Session
from services.engine.model import described
from services.engine.recorded import RecordedWorld
from services.replay.again import Again, CannotReplay
from services.replay.logged import Logged

PRESET = PRESETS["debug"]
SESSION = Session(session_id="tiny-1", seed=5, prompt="a road")
VALUES = len(PRESET.keys)


@pytest.fixture(scope="module")
def model() -> checkpoint.Model:
    return checkpoint.untrained(PRESET)


class Engine:
    """Plays in slot 0 of a recorded world, as an engine would, with keys that change now and then."""

    def __init__(self, model: checkpoint.Model, epoch: int, most_verbs: int = 4096) -> None:
        self.world = RecordedWorld(Rollout(model, 2), "here", most_verbs)
        self.epoch = epoch
        self.latents: dict[int, Tensor] = {}
        self.controls: dict[int, Tensor] = {}

    def begin(self) -> "Engine":
        self.latents[0] = self.world.open(0, None, SESSION.prompt, SESSION.seed)
        self.controls[0] = torch.zeros(4, VALUES)
        return self._named()

    def go_on(self, past: "Engine", until: int) -> "Engine":
        self.latents = {i: latent for i, latent in past.latents.items() if i <= until}
        self.controls = {i: rows for i, rows in past.controls.items() if i <= until}
        self.world.resume(0, Past(self.latents, self.controls), SESSION.prompt, SESSION.seed)
        return self._named()

    def take_in(self, other: "Engine", until: int) -> "Engine":
        since = range(max(self.latents) + 1, until + 1)
        self.latents |= {i: other.latents[i] for i in since}
        self.controls |= {i: other.controls[i] for i in since}
        past = Past({i: self.latents[i] for i in since}, {i: self.controls[i] for i in since})
        self.world.extend(0, past)
        return self

    def step(self, latents: int) -> "Engine":
        for _ in range(latents):
            index = max(self.latents) + 1
            self.controls[index] = torch.full((4, VALUES), float(index // 3 % 2))
            self.latents[index] = self.world.step({0: self.controls[index]})[0]
        return self

    def _named(self) -> "Engine":
        self.world.name(0, SESSION.session_id, "default", self.epoch)
        return self


def again(model: checkpoint.Model, entries: Iterable[LogEntry]) -> Again:
    played = Again(Rollout(model, 1), SESSION, VALUES)
    played.play(entries)
    return played


def same(film: Sequence[Tensor], latents: dict[int, Tensor]) -> bool:
    return len(film) == len(latents) and all(torch.equal(film[i], latent) for i, latent in latents.items())


def test_a_session_is_the_same_to_the_bit_when_it_is_played_again(model: checkpoint.Model) -> None:
    engine = Engine(model, 1).begin().step(9)
    played = again(model, engine.world.take())
    assert played.difference is None
    assert same(played.film(), engine.latents)


def test_a_new_prompt_is_played_again_at_its_latent(model: checkpoint.Model) -> None:
    engine = Engine(model, 1).begin().step(3)
    engine.world.set_prompt(0, "snow")
    played = again(model, engine.step(3).world.take())
    assert played.difference is None
    assert same(played.film(), engine.latents)


def test_a_session_that_went_on_elsewhere_is_resumed_at_the_same_latent(model: checkpoint.Model) -> None:
    """Past the window a resumed world is close to the one before, not the same: the replay must do it too."""
    first = Engine(model, 1).begin().step(20)
    logged = first.world.take()
    second = Engine(model, 2).go_on(first, until=17).step(5)
    played = again(model, [*second.world.take(), *logged])
    assert played.difference is None
    assert (played.epochs, same(played.film(), second.latents)) == (2, True)


def test_a_session_that_moved_while_it_was_played_took_in_what_was_made_meanwhile(
    model: checkpoint.Model,
) -> None:
    first = Engine(model, 1).begin().step(20)
    second = Engine(model, 2).go_on(first, until=17)
    second.take_in(first, until=19).step(4)
    played = again(model, [*first.world.take(), *second.world.take()])
    assert played.difference is None
    assert same(played.film(), second.latents)


def test_what_an_engine_made_that_others_did_not_go_on_from_is_made_again_and_left_out(
    model: checkpoint.Model,
) -> None:
    """The third engine goes on from what the second had made and not logged, not from what the first had."""
    first = Engine(model, 1).begin().step(30)
    second = Engine(model, 2).go_on(first, until=20)
    logged = [*first.world.take(), *second.world.take()]
    third = Engine(model, 3).go_on(second.step(5), until=25).step(2)
    played = again(model, [*logged, *third.world.take()])
    assert played.difference is None
    assert same(played.film(), third.latents)


def test_what_a_killed_engine_had_not_logged_is_made_again_from_what_the_next_one_was_given(
    model: checkpoint.Model,
) -> None:
    first = Engine(model, 1).begin().step(4)
    logged = first.world.take()
    first.step(6)
    second = Engine(model, 2).go_on(first, until=10).step(3)
    played = again(model, [*logged, *second.world.take()])
    assert played.difference is None
    assert same(played.film(), second.latents)


def test_a_past_that_nobody_logged_is_said_to_be_missing(model: checkpoint.Model) -> None:
    first = Engine(model, 1).begin().step(4)
    logged = first.world.take()
    first.step(26)
    for index in range(2, 20):
        del first.latents[index]  # a decoder keeps the first two and the last
    second = Engine(model, 2).go_on(first, until=30).step(1)
    entries = second.world.take()
    with pytest.raises(CannotReplay, match="epoch 2 went on from latent 20"):
        again(model, [*logged, *entries])
    with pytest.raises(CannotReplay, match="epoch 2 begins after the session did"):
        again(model, entries)


def test_the_first_latent_that_differs_is_named(model: checkpoint.Model) -> None:
    (entry,) = Engine(model, 1).begin().step(6).world.take()
    entry.verbs[4].stepped.digest ^= 1
    entry.verbs[6].stepped.digest ^= 1
    difference = again(model, [entry]).difference
    assert difference is not None
    assert (difference.epoch, difference.index, difference.made_with) == (1, 4, "here")


def test_pieces_that_come_twice_count_once_and_one_that_is_missing_is_noticed(
    model: checkpoint.Model,
) -> None:
    engine = Engine(model, 1).begin()
    pieces = [piece for _ in range(3) for piece in engine.step(2).world.take()]
    assert same(again(model, [*pieces, pieces[1]]).film(), engine.latents)
    with pytest.raises(CannotReplay, match="lacks what came after 3 verbs"):
        again(model, [pieces[0], pieces[2]])


def test_a_log_that_could_not_be_sent_for_too_long_ends_there(model: checkpoint.Model) -> None:
    engine = Engine(model, 1, most_verbs=5).begin().step(9)
    (entry,) = engine.world.take()
    assert [verb.WhichOneof("said") for verb in entry.verbs] == ["began", *["stepped"] * 4, "cut"]
    assert len(again(model, [entry]).film()) == 5


def test_a_log_of_another_model_or_of_nothing_is_refused(model: checkpoint.Model) -> None:
    session = Session(session_id="road-1", model=described(PRESETS["road"]))
    with pytest.raises(CannotReplay, match="holds nothing"):
        Logged(session).played_again(model)
    with pytest.raises(CannotReplay, match="is of model road, this is debug"):
        Logged(session, [LogEntry()]).played_again(model)


def test_controls_that_do_not_change_take_no_room(model: checkpoint.Model) -> None:
    engine = Engine(model, 1).begin().step(1)
    before = engine.world.take()[0].ByteSize()
    for _ in range(60):
        engine.world.step({0: engine.controls[1]})
    assert engine.world.take()[0].ByteSize() < before + 60 * 12


def test_what_nobody_names_is_written_down_for_nobody(model: checkpoint.Model) -> None:
    world = RecordedWorld(Rollout(model, 2))
    world.open(1, None, "", 1)
    world.step({1: torch.zeros(4, VALUES)})
    world.close(1)
    assert world.take() == []


def test_a_stay_that_has_ended_is_still_told_once(model: checkpoint.Model) -> None:
    engine = Engine(model, 1).begin().step(2)
    engine.world.close(0)
    (entry,) = engine.world.take()
    assert (entry.session_id, entry.epoch, len(entry.verbs)) == ("tiny-1", 1, 3)
    assert engine.world.take() == []
