"""What is shown in Python runs as it is shown, before real services."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services import together
from tests.client.programs import ROOT, run
from tests.docs.pages import LINKED, blocks
from tests.system.conftest import start

__all__ = ["start"]

Start = Callable[..., Awaitable[together.Addresses]]

SNIPPETS = [block for page in LINKED for block in blocks(page, "python") if "livevideo_client" in block]


@pytest.mark.slow
async def test_every_snippet_plays(start: Start, tmp_path: Path) -> None:
    """One after the other: a busy machine has a seat for one."""
    addresses = await start()
    paths = f"{ROOT / 'libs/client/src'}:{ROOT / 'gen'}"
    assert len(SNIPPETS) >= 5
    for number, snippet in enumerate(SNIPPETS):
        file = tmp_path / f"snippet-{number}.py"
        file.write_text(snippet.replace("127.0.0.1:50051", addresses.grpc))
        ended = await run(sys.executable, file, variables={"PYTHONPATH": paths})
        assert ended.code == 0, (snippet, ended)
        assert not ended.err, ended.err
        assert ended.out or "print" not in snippet
