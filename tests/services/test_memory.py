"""What is left of the memory, and what a failed allocation looks like."""

from pathlib import Path

import pytest
import torch

from aapt.checkpoint import untrained
from aapt.lines import RankLost
from aapt.presets import DEBUG
from services import memory
from services.engine.world import on_one_device
from services.errors import BadSetting


def test_a_failed_allocation_is_known_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60)
    assert memory.is_out_of_memory(failed.value)
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_out_of_memory(RuntimeError("shapes differ"))


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 250\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._of_container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    assert memory._of_container(tmp_path / "none") is None
    left = memory.available_bytes()
    assert left is None or left > 0


def test_slots_that_do_not_fit_are_refused_with_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(DEBUG)
    one = model.dit.new_cache(1, 4, 4, device="meta").size_bytes
    assert one == on_one_device(model, 1).cache_bytes
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * one)
    assert on_one_device(model, 3).slots == 3
    with pytest.raises(BadSetting, match=f"{4 * one} bytes of memory, {one} each.*choose 3 or fewer"):
        on_one_device(model, 4)


def test_what_cuda_says_of_its_memory_is_known_and_what_a_lost_rank_says_is_not() -> None:
    for said in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"):
        assert memory.is_out_of_memory(RuntimeError(said))
    assert not memory.is_out_of_memory(RankLost("rank 1 failed: can't allocate memory"))
