"""Every command on our pages is one that a reader can type: the program, its options and its files are there.

Programs of ours are started in this process, up to where they have read their options.
"""

import argparse
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.docs.pages import PAGES, ROOT, Command, blocks, commands

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
OURS = re.compile(r"(services|aapt|loadtests|deploy|livevideo_client)\b")
IN_REPOSITORY = re.compile(r"(docs|deploy|examples|libs|protos|checkpoints)/")

# What make needs before it starts a program.
STAMPS = re.findall(r"^((?:\.venv|gen)/[\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

# What cannot be tried here, and why; its files are looked for all the same.
NOT_TRIED = {
    ".venv/bin/locust": "would serve a page; tests/system/test_load.py lets it play without one",
    ".venv/bin/pip": "would install; pyproject.toml has the extra",
    "helm": "wants a cluster; `make chart` renders what it would install, with the same values",
    "prometheus": "would run on; tests/monitoring/ reads the same rules with promtool and a real Prometheus",
}


class Accepted(BaseException):
    """A program has read its options, and would begin now."""


def test_there_are_commands_on_every_page_that_should_have_some() -> None:
    pages = {command.page for command in COMMANDS}
    assert {"README.md", "integrate.md", "operate.md", "train.md", "measured.md"} <= pages
    assert len(COMMANDS) > 40


def test_no_block_goes_on_beside_a_service_that_may_not_be_ready() -> None:
    """Whoever pastes a block has it typed at once: what is begun first would race with what comes next."""
    lines = [
        line.partition("#")[0]
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
    ]
    assert not [line for line in lines if line.rstrip().endswith("&")]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_can_be_typed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [word for word in command.words if IN_REPOSITORY.match(word) and not (ROOT / word).exists()]
    assert not [word for word in missing if not _is_output(command.words, word)]
    match command.words[0]:
        case "make":
            for words in _made(command.words):
                _try_module(words, monkeypatch)
        case "python" | ".venv/bin/python":
            _try_module(command.words[1:], monkeypatch)
        case "out/cpp/play":
            known = re.findall(r'\{"(--[a-z-]+)"', (ROOT / "examples/cpp/play.cpp").read_text())
            assert {word for word in command.words if word.startswith("--")} <= {*known}
        case program:
            assert program in NOT_TRIED, f"say in NOT_TRIED why {program} cannot be tried"


def _is_output(words: Sequence[str], word: str) -> bool:
    """Whether it is what the command writes."""
    return words[words.index(word) - 1] in ("--out", "--save")


def _made(words: Sequence[str]) -> list[list[str]]:
    """The programs of ours that `make` would start with these words, in an environment that is whole."""
    whole = [word for stamp in STAMPS for word in ("--assume-old", stamp)]
    asked = subprocess.run(
        ("make", "--dry-run", *whole, *words[1:]), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    lines = [
        shlex.split(line)
        for line in asked.stdout.replace("\\\n", " ").splitlines()
        if not line.startswith("for ")
    ]
    found = [line[line.index("-m") :] for line in lines if "-m" in line]
    return [each for each in found if OURS.match(each[1])]


def _try_module(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts `-m module options`, until it has read them. Fails where it refuses them, or reads none."""
    assert words[0] == "-m", "our programs are modules"
    module, options = words[1], words[2:]
    assert OURS.match(module), f"{module} is no program of ours"
    assert importlib.util.find_spec(module), f"there is no module {module}"
    read = argparse.ArgumentParser.parse_args

    def accepted(parser: argparse.ArgumentParser, *arguments: object, **how: object) -> None:
        read(parser, *arguments, **how)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", accepted)
    monkeypatch.setattr(sys, "argv", [module, *options])
    with pytest.raises((Accepted, SystemExit)) as ending:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    if isinstance(ending.value, SystemExit):
        assert "--help" in options, f"{module} refuses {options}"
        assert ending.value.code == 0
