"""What our pages say: their commands, their links, their snippets."""

import re
import shlex
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Pages whose commands are tried; the links of all others are followed, too.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINKED = (
    *PAGES,
    *(ROOT / name for name in ("ARCHITECTURE.md", "SECURITY.md", "checkpoints/road/MODEL_CARD.md")),
    *sorted(ROOT.glob("libs/*/README.md")),
    *sorted(ROOT.glob("deploy/helm/*/README.md")),
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A command in a sentence; one with an ellipsis is no whole one.
_INLINE = re.compile(r"`((?:\.venv/bin/)?(?:make|python) [^`…]+)`")
_ENDS = {"&", "&&", "||", ";", "|"}


@dataclass(frozen=True)
class Command:
    """One command of a page: its words, and where it stands."""

    page: str
    words: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of this language."""
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


def commands(page: Path) -> Iterator[Command]:
    """Those in shell blocks, without comments and redirections, and those in sentences."""
    for block in blocks(page, "sh"):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands_in(line, page, variables)
    prose = _BLOCK.sub("", page.read_text())
    for text in _INLINE.findall(prose):
        yield from _commands_in(text.replace("\n", " "), page, {})


def _commands_in(line: str, page: Path, variables: dict[str, str]) -> Iterator[Command]:
    lexer = shlex.shlex(string.Template(line).safe_substitute(variables), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _ENDS:
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # a variable, or the environment of a command
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if ">" in words:
            del words[words.index(">") :]
        if words:
            yield Command(page.name, tuple(words))
        words = []


def links(page: Path) -> list[str]:
    """Where its links and pictures lead, within the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", page.read_text()))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """What GitHub calls its headings."""
    titles = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
