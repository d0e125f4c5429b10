"""What is generated is as the code says, and what the chart sets is what the services read."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import values
from deploy.settings import OWN, SERVICES, UNUSED, Setting, all_settings, settings_of
from tests.chart.rendering import MATRIX, of_kind, pods, rendered

ROOT = Path(__file__).parents[2]


def test_the_schema_and_the_tables_are_new() -> None:
    assert values.SCHEMA.read_text() == values.schema()
    text = values.README.read_text()
    assert text == values.readme(text)


def environment(case: str, service: str) -> dict[str, Any]:
    """What a case sets of a service."""
    if service == "engine" and case.startswith("8xh100"):
        spec = of_kind(rendered(case), "RayService")["engine"]["spec"]
        application = yaml.safe_load(spec["serveConfigV2"])["applications"][0]
        found: dict[str, Any] = application["runtime_env"]["env_vars"]
        return found
    base = "worlds" if case == "local-named" else "play-livevideo"
    spec = pods(rendered(case)).get(f"Deployment/{base}-{service}", {"containers": [{"env": []}]})
    return {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize("case", MATRIX)
@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_one_that_the_service_reads(service: str, case: str) -> None:
    read = {each.variable for each in all_settings(service)} | {"POD_IP"}
    assert environment(case, service).keys() <= read


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_set_can_be_chosen_or_is_of_no_use(service: str) -> None:
    ever = {variable for case in MATRIX for variable in environment(case, service)}
    for each in all_settings(service):
        if each.variable in OWN:
            unused = {
                "TLS_PUBLIC_CERT_FILE",
                "TLS_PUBLIC_KEY_FILE",
                "TLS_CALLERS",
            }  # of *web*, and of internal ports
            assert each.variable in ever | unused, (
                f"{service} reads {each.variable}, which the chart never sets"
            )
        else:
            assert each.variable in UNUSED or each in settings_of(service)


# The first of each service that has some.
NUMBERS = {
    service: each
    for service in SERVICES
    for each in reversed(settings_of(service))
    if each.kind in (int, float)
}


@pytest.mark.parametrize(("service", "number"), NUMBERS.items())
def test_numbers_arrive_as_they_were_written(service: str, number: Setting) -> None:
    document = rendered("local", more=(f"{service}.settings.{number.variable}=67108864",))
    (container,) = pods(document)[f"Deployment/play-livevideo-{service}"]["containers"]
    assert {"name": number.variable, "value": "67108864"} in container["env"]


def test_the_image_recipe_knows_every_service_and_runs_as_the_chart_says() -> None:
    recipe = (ROOT / "services" / "Dockerfile").read_text()
    (plain,) = re.findall(r"(\S+\|\S+)\) wanted", recipe)
    named = {*plain.split("|"), *re.findall(r"^ +(\w+)\) wanted", recipe, re.MULTILINE)}
    assert named == set(SERVICES)
    (user,) = re.findall(r"^USER (\d+):\d+$", recipe, re.MULTILINE)
    assert {spec["securityContext"]["runAsUser"] for spec in pods(rendered("8xh100")).values()} == {int(user)}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE)
    assert all((ROOT / path).exists() for paths in copied for path in paths.split())
    (pinned,) = re.findall(r"grpcio-tools==\S+", recipe)
    assert f'"{pinned}"' in (ROOT / "pyproject.toml").read_text()
