"""Everything that the fuzzer kept, again: it once reached code that nothing before had reached."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_is_read_or_refused(target: str) -> None:
    seeds = sorted((SEEDS / target).iterdir())
    assert seeds
    for seed in seeds:
        try:
            TARGETS[target](seed.read_bytes())
        except Exception as error:
            pytest.fail(f"{seed.name}: {error!r}")
