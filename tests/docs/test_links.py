"""Every link on our pages leads somewhere."""

from pathlib import Path

import pytest

from livevideo_client import refusals
from services import errors
from tests.client.test_refusals import WANTED
from tests.docs.pages import LINKED, ROOT, anchors, blocks, links


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_to_a_heading_that_it_has(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_what_is_shown_in_cpp_stands_in_the_program() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "examples/cpp").glob("*.*")))
    shown = [block for page in (ROOT / "docs").glob("*.md") for block in blocks(page, "cpp")]
    assert len(shown) >= 3
    for block in shown:
        assert block in sources, block


def test_the_table_of_refusals_is_that_of_the_services_and_of_the_client() -> None:
    rows = [line for line in (ROOT / "docs/integrate.md").read_text().splitlines() if line.startswith("| `")]
    told = {
        cells[1].strip("` "): [cell.strip(" `") for cell in cells[2:5]]
        for row in rows
        if len(cells := row.split("|")) == 7
    }
    wanted = {sent.reason: _row(sent, kind) for sent, kind in WANTED.items()}
    assert told == wanted


def _row(sent: type[errors.ServiceError], kind: type[refusals.Refused]) -> list[str]:
    return [sent.code.name, kind.__name__, "" if sent.retry_s is None else f"{sent.retry_s:g} s"]
