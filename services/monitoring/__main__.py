"""Writes what Prometheus and Grafana read into deploy/, or says whether that is what the code renders."""

import argparse
import json
from pathlib import Path

import yaml

from services.monitoring import boards, rules

FOLDER = Path("deploy/helm/livevideo/files")
_HEADER = "# Rendered by `make rules` from services/monitoring; change it there.\n"


def rendered() -> dict[Path, str]:
    """The text of every file, by its path below FOLDER."""
    document = yaml.safe_dump(rules.document(), sort_keys=False, width=1000)
    files = {Path("rules.yaml"): _HEADER + document}
    for name, board in boards.all_boards().items():
        files[Path("dashboards") / f"{name}.json"] = json.dumps(board, indent=1, sort_keys=True) + "\n"
    return files


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of files that are not what is rendered, or that nobody renders any more."""
    wanted = {folder / path: text for path, text in rendered().items()}
    there = {*folder.glob("dashboards/*.json"), *wanted}
    return sorted(str(path) for path in there if not path.exists() or path.read_text() != wanted.get(path))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.monitoring", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where files are stale")
    options = parser.parse_args()
    if options.check:
        if names := stale():
            raise SystemExit(f"not what services/monitoring renders: {', '.join(names)}; say `make rules`")
        return
    for path, text in rendered().items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text)
        print(FOLDER / path)


if __name__ == "__main__":
    main()
