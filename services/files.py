"""Files that others exchange while we run: certificates, keys, passwords."""

from pathlib import Path

from services.errors import BadSetting


class Files:
    """Some files, and whether they are others than a moment ago. An empty path stands for none."""

    def __init__(self, *paths: str) -> None:
        self._paths = tuple(Path(path) for path in paths if path)
        self._seen = self._stamps()

    def have_changed(self) -> bool:
        """Since it was asked last. A file that is away, as it is exchanged, has not changed yet."""
        stamps = self._stamps()
        if None in stamps or stamps == self._seen:
            return False
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)


def secret_in(path: str) -> str:
    """What a file holds, without the line's end. Raises BadSetting."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeError) as error:
        raise BadSetting(
            f"the secret in {path} cannot be read ({error}); mount it, or correct the path"
        ) from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Of what a path leads to now; Kubernetes exchanges a link, not the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
