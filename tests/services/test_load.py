"""What a step of the staircase amounts to, and what is written of it. tests/system/test_load.py takes one."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from loadtests.measured import Measured, Seen, summed
from loadtests.timeline import Timeline
from services.bench.load import report
from services.bench.load.__main__ import chosen
from services.bench.load.steps import Step, held

CORES = {"engine": 0.2, "decoder": 0.4, "sessions": 0.1, "players": 0.3}


def measured(players: int = 2) -> Measured:
    """All well."""
    seen = [Seen(Timeline(1 / 24), first_frame_s=0.1) for _ in range(players)]
    for each in seen:
        each.timeline.control(1, 100.0)
        for index in range(240):
            each.timeline.frame(index, index > 3, 100 + index / 24)
    return summed(seen, 10.0)


def test_a_step_is_held_where_all_promises_were_kept() -> None:
    assert not Step(measured(), CORES).broken


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sessions": 1}, "1 were refused"),
        ({"broken": {"unknown_session": 1}}, "1 sessions broke"),
        ({"deadline_hit": 0.998}, "99.80 % of frames in time"),
        ({"controls_within": 0.97}, "97.00 % of controls shown within 350 ms"),
        ({"first_frame_p99_s": 2.5}, "first frames after up to 2.5 s"),
        ({"index_gaps": 3}, "3 frames skipped or repeated"),
    ],
)
def test_a_step_says_what_was_not_kept(wrong: dict[str, float], said: str) -> None:
    assert Step(replace(measured(), **wrong), CORES).broken == [said]  # type: ignore[arg-type]


def test_what_is_held_is_the_largest_step_that_was() -> None:
    steps = [Step(measured(players), CORES) for players in (1, 4)]
    steps.append(Step(replace(measured(8), deadline_hit=0.9), CORES))
    assert (held(steps), held(steps[2:])) == (4, 0)


def test_the_report_has_every_step_and_its_picture(tmp_path: Path) -> None:
    steps = [Step(measured(), CORES), Step(replace(measured(4), deadline_hit=0.98), CORES)]
    run = {
        "machine": "a machine",
        "at": "2026-11-26T04:17:37+00:00",
        "seconds": 10.0,
        "held": 2,
        "command": "--staircase",
        "steps": [each.numbers() for each in steps],
    }
    report.write({"load_staircase_road": run}, tmp_path / "docs")
    written = (tmp_path / "docs/load.md").read_text()
    assert "**2 players** are held" in written
    assert "| 2 | 2 | 100.00 % | 0 |" in written
    assert "98.00 % of frames in time |" in written
    with Image.open(tmp_path / "docs/load-road.png") as picture:
        assert picture.size == (900, 324)
    assert not (tmp_path / "docs/load-null.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seconds nan", "it must be 5 to 86400"),
        ("--minutes -1", "it must be 5 to 86400"),
        ("--sessions 0", "from 1 to 1000"),
        ("--staircase --sizes 4 0", "from 1 to 1000"),
        ("--phases -1", "phases are from 1 to 1000"),
        ("--checkpoint nowhere", "there is no checkpoint in nowhere"),
        ("--staircase --visitors", "not allowed with"),
        ("-- --users", "which runs with --visitors"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        chosen(words.split())
    assert said in capsys.readouterr().err


def test_a_step_lasts_as_long_as_it_was_asked_to() -> None:
    asked = {"": 60.0, "--staircase": 45.0, "--minutes 2": 120.0, "--visitors --seconds 9": 9.0}
    assert {words: chosen(words.split()).seconds for words in asked} == asked
