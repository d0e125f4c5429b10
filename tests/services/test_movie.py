"""Films of what was seen can be played again."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from loadtests.movie import movie_at

WIDTH_PX, HEIGHT_PX, FRAMES = 32, 16, 12


@pytest.mark.parametrize(("name", "larger", "kept"), [("play.mp4", 4, FRAMES), ("play.webp", 3, FRAMES // 2)])
def test_a_film_has_every_frame_that_it_promises_in_its_colours(
    tmp_path: Path, name: str, larger: int, kept: int
) -> None:
    movie = movie_at(tmp_path / "new" / name)
    for i in range(FRAMES):
        movie.add(np.full((HEIGHT_PX, WIDTH_PX, 3), (20 * i, 128, 10), np.uint8))
    movie.close()
    frames = decoded(tmp_path / "new" / name)
    assert len(frames) == kept
    assert frames[-1].shape == (HEIGHT_PX * larger, WIDTH_PX * larger, 3)
    reds = [int(frame[..., 0].mean()) for frame in frames]
    assert reds == pytest.approx([20 * (i * FRAMES // kept) for i in range(kept)], abs=10)


def decoded(path: Path) -> list[np.ndarray]:
    if path.suffix == ".webp":
        with Image.open(path) as opened:
            shown = []
            for i in range(getattr(opened, "n_frames", 1)):
                opened.seek(i)
                shown.append(np.array(opened.convert("RGB")))
            return shown
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
