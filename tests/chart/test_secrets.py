"""With a cluster to ask, a Secret that is named and not there is an error of rendering."""

from pathlib import Path

import pytest

from tests.chart.api_server import serving
from tests.chart.rendering import HELMS, KINDS, rendered, run

THERE = ("livevideo-redis", "livevideo-redis-ca")


def asked(folder: Path, helm: str, secrets: tuple[str, ...], *more: str) -> tuple[int, str]:
    kinds = {(each["apiVersion"], each["kind"]) for each in rendered("gpu")}
    with serving(folder, "worlds", secrets, kinds) as config:
        done = run(
            helm,
            *("template", "play", "deploy/helm/livevideo", "--namespace", "worlds"),
            *("--values", "deploy/helm/livevideo/values-gpu.yaml", "--dry-run=server"),
            *("--kubeconfig", str(config), "--disable-openapi-validation", *more),
            *(word for each in KINDS for word in ("--api-versions", each)),
        )
    return done.returncode, done.stderr


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.mark.parametrize("helm", HELMS)
def test_a_missing_secret_is_named_with_its_value(helm: str, tmp_path: Path) -> None:
    code, said = asked(tmp_path, helm, THERE[:1])
    assert code
    assert (
        'redis.ca.secret names the Secret "livevideo-redis-ca", which is not in the namespace worlds' in said
    )


@pytest.mark.parametrize("helm", HELMS)
def test_nothing_is_said_where_all_are_there_or_nobody_asks(helm: str, tmp_path: Path) -> None:
    code, said = asked(tmp_path, helm, THERE)
    assert not code, said
    code, said = asked(tmp_path, helm, (), "--set", "checkSecrets=false")
    assert not code, said
