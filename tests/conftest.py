"""Before torch is imported: one thread, and none that spins, so that tests do not starve what runs beside."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")


class _SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """The library's tests by file; then the services' one after the other, since they play in real time."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith("tests/aapt/") else "services"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _SideBySide(config, log)
