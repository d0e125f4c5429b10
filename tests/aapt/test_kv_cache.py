"""One rule of who sees whom, kept by mask and cache alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from aapt.dit.attention import visible
from aapt.dit.kv_cache import KVCache, LayerCache


def small_cache(window: int) -> KVCache:
    return KVCache(
        layers=1, slots=2, window=window, tokens=1, text_tokens=1, heads=1, text_heads=1, head_dim=2
    )


@given(window=st.integers(0, 6), newest=st.integers(1, 40))
def test_the_cache_keeps_exactly_what_the_mask_lets_through(window: int, newest: int) -> None:
    cache = small_cache(window)
    for index in range(1, newest + 1):
        value = torch.full((1, 1, 1, 2), float(index))
        LayerCache(cache, 0, (1,), ((index,),)).write(value, value)
    keys, _ = LayerCache(cache, 0, (1,), ((newest,),)).read(0)
    kept = sorted(int(x) for x in keys[0, :, 0, 0])
    every = torch.arange(1, newest + 1)[None]
    seen = visible(torch.tensor([[newest]]), every, window)[0, 0]
    assert kept == every[0][seen].tolist()
    assert cache.kept(newest) == tuple(kept)
    assert cache.keys[0, 0].abs().sum() == 0  # the other row is untouched


@given(window=st.integers(0, 6), newest=st.integers(1, 40))
def test_writing_a_whole_past_leaves_what_writing_it_one_by_one_leaves(window: int, newest: int) -> None:
    one_by_one, at_once = small_cache(window), small_cache(window)
    values = torch.arange(1.0, newest + 1)[None, :, None, None].expand(1, newest, 1, 2)
    for index in range(1, newest + 1):
        LayerCache(one_by_one, 0, (0,), ((index,),)).write(
            values[:, index - 1 : index], values[:, index - 1 : index]
        )
    LayerCache(at_once, 0, (0,), (tuple(range(1, newest + 1)),)).write(values, values)
    assert torch.equal(one_by_one.keys, at_once.keys)


def test_the_first_latent_stays_visible_after_the_window_has_passed() -> None:
    rule = visible(torch.tensor([[50]]), torch.arange(1, 52)[None], window=3)[0, 0]
    assert (torch.arange(1, 52)[rule]).tolist() == [1, 47, 48, 49, 50]


def test_reading_is_a_view_of_the_row_and_copies_nothing() -> None:
    cache = small_cache(3)
    keys, _ = LayerCache(cache, 0, (1,), ((9,),)).read(0)
    assert keys.untyped_storage().data_ptr() == cache.keys.untyped_storage().data_ptr()


@given(newest=st.integers(1, 12))
def test_sessions_of_one_age_are_written_and_read_as_one(newest: int) -> None:
    together, apart = small_cache(3), small_cache(3)
    for index in range(1, newest + 1):
        values = torch.tensor([1.0, 2.0])[:, None, None, None] * torch.full((2, 1, 1, 2), float(index))
        layer = LayerCache(together, 0, (0, 1), ((index,), (index,)))
        assert layer.is_together
        layer.write(values, values)
        for slot in (1, 0):
            LayerCache(apart, 0, (slot,), ((index,),)).write(values[slot, None], values[slot, None])
    assert torch.equal(together.keys, apart.keys)
    layer = LayerCache(together, 0, (0, 1), ((newest,), (newest,)))
    for at_once, one_by_one in zip(
        layer.read_all(), zip(layer.read(0), layer.read(1), strict=True), strict=True
    ):
        assert torch.equal(at_once, torch.cat(one_by_one))
    assert not LayerCache(together, 0, (1, 0), ((newest,), (newest,))).is_together
    assert not LayerCache(together, 0, (0, 1), ((newest,), (newest + 1,))).is_together
