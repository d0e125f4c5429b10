"""Before torch is imported: one thread, and none that spins, so that tests do not starve what runs beside."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")


class _SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """The library's tests by file; then those of the whole system one after the other, beside all others."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/aapt/"):
            return file
        return "system" if file.startswith("tests/system/") else "others"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _SideBySide(config, log)
