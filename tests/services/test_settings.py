"""Settings from the environment: what cannot be is one sentence, and --help tells them all."""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from services.errors import BadSetting
from services.settings import check, help_text, settings_from_env, settings_to_env


@dataclass(frozen=True)
class Inner:
    """Settings within settings."""

    inner_bytes: int = 10  # how much, in bytes


@dataclass(frozen=True)
class Outer:
    """Settings of a test."""

    address: str = "127.0.0.1:1"  # where it listens
    peer_address: str = ""  # of another; empty: none
    wait_s: float = 1.5  # longest wait
    # How many frames there are, which takes
    # two lines to say.
    frames_per_second: float = 0.0
    metrics_port: int = 0
    count: int = 3
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check(self, count=1)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("WAIT_S", "-1", "WAIT_S is -1.0; it must be above 0"),
        ("WAIT_S", "0", "WAIT_S is 0.0; it must be above 0"),
        ("WAIT_S", "nan", "WAIT_S is nan; it must be above 0"),
        ("WAIT_S", "inf", "WAIT_S is inf; it must be above 0"),
        ("WAIT_S", "soon", "WAIT_S is 'soon'; it must be of type float"),
        ("FRAMES_PER_SECOND", "-24", "FRAMES_PER_SECOND is -24.0; it must be 0 or more"),
        ("METRICS_PORT", "65536", "METRICS_PORT is 65536; it must be from 0 to 65535"),
        ("COUNT", "0", "COUNT is 0; it must be 1 or more"),
        ("INNER_BYTES", "-5", "INNER_BYTES is -5; it must be above 0"),
        ("ADDRESS", "localhost", "ADDRESS is 'localhost'; it must be host:port"),
        ("ADDRESS", "", "ADDRESS is ''; it must be host:port"),
        ("ADDRESS", "h:99999", "ADDRESS is 'h:99999'; it must be host:port"),
    ],
)
def test_what_cannot_be_is_told_with_its_value(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as refusal:
        settings_from_env(Outer)
    assert refusal.value.message.startswith(told)


def test_settings_go_to_another_process_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Outer(wait_s=2.5, inner=Inner(7), peer_address="[::1]:2")
    for variable, value in settings_to_env(settings).items():
        monkeypatch.setenv(variable, value)
    assert settings_from_env(Outer) == settings


def test_help_says_what_the_comments_say() -> None:
    lines = [line.split(maxsplit=2) for line in help_text(Outer).splitlines()]
    assert ["WAIT_S", "1.5", "longest wait"] in lines
    assert ["PEER_ADDRESS", "(empty)", "of another; empty: none"] in lines
    assert ["FRAMES_PER_SECOND", "0.0", "How many frames there are, which takes two lines to say."] in lines
    assert ["INNER_BYTES", "10", "how much, in bytes"] in lines


def started(service: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("service", "variables", "told"),
    [
        ("control", {"CONTROLS_PER_S": "-5"}, "CONTROLS_PER_S is -5.0; it must be above 0"),
        ("sessions", {"REDIS_URL": "nonsense"}, "REDIS_URL is 'nonsense'; begin it with redis://"),
        ("sessions", {"REDIS_URL": "redis://u:secret@h:x"}, "REDIS_URL has 'h:x' where a host:port must be"),
        ("web", {"TLS_CERT_FILE": "cert.pem"}, "TLS_CERT_FILE and TLS_KEY_FILE belong together"),
    ],
)
def test_a_service_that_cannot_be_ends_with_one_sentence(
    service: str, variables: dict[str, str], told: str
) -> None:
    ended = started(service, **variables)
    assert ended.returncode == 1
    assert ended.stderr.startswith(told)
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr


def test_a_service_tells_its_settings() -> None:
    ended = started("web", "--help")
    assert ended.returncode == 0
    assert "PAGE_ADDRESS" in ended.stdout


@pytest.mark.parametrize("service", ["control", "decoder", "engine", "sessions", "web"])
def test_help_lists_every_setting_with_what_it_means(service: str) -> None:
    text = help_text(importlib.import_module(f"services.{service}.service").Settings)
    settings = [line.split(maxsplit=2) for line in text.partition("defaults:")[2].splitlines() if line]
    assert len(settings) > 8
    assert [each for each in settings if len(each) < 3] == []
