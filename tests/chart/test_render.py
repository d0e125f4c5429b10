"""The chart renders on both majors of Helm, into what Kubernetes and the operators take."""

import copy
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deploy.values import CHART
from tests.chart import schemas
from tests.chart.rendering import HELMS, MATRIX, of_kind, pods, preset, rendered, run

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install '.[chart]'")

VERSIONS = ("1.30", "1.34", "1.37")
CUSTOM = {"ray.io/v1": "../shared/crds", "monitoring.coreos.com/v1": "../shared/crds"}


def is_custom(document: dict[str, Any]) -> bool:
    group = document["apiVersion"].partition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group == "gateway.networking.k8s.io"


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("case", MATRIX)
def test_lint_finds_nothing(case: str, helm: str) -> None:
    done = run(
        helm,
        *("lint", "--strict", str(CHART), "--values", str(preset(case))),
        *(word for each in MATRIX[case] for word in ("--set", each)),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", MATRIX)
def test_both_majors_render_the_same(case: str) -> None:
    three, four = (
        {(each["kind"], each["metadata"]["name"]): each for each in rendered(case, helm)} for helm in HELMS
    )
    assert three == four


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_document(version: str) -> None:
    different = {str(each): each for case in MATRIX for each in rendered(case) if not is_custom(each)}
    for each in different.values():
        kubernetes_validate.validate(each, version, strict=True)
    kinds = {each["kind"] for each in different.values()}
    assert {"Deployment", "NetworkPolicy", "HorizontalPodAutoscaler", "PriorityClass", "Pod"} <= kinds


@pytest.mark.parametrize("case", MATRIX)
def test_operators_take_every_document(case: str) -> None:
    where = schemas.folder()
    if where is None:
        pytest.skip("there is no ../shared/crds: custom resources are not held against their schemas")
    for each in rendered(case):
        if each["apiVersion"] in CUSTOM:
            schemas.check(each, where)


def test_a_typo_in_a_custom_resource_is_found() -> None:
    where = schemas.folder()
    if where is None:
        pytest.skip("there is no ../shared/crds: custom resources are not held against their schemas")
    service = copy.deepcopy(of_kind(rendered("8xh100"), "RayService")["engine"])
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        schemas.check(service, where)


@pytest.mark.parametrize("case", ["8xh100", "8xh100-whole"])
def test_serve_takes_its_config_and_finds_the_engine(case: str) -> None:
    spec = of_kind(rendered(case), "RayService")["engine"]["spec"]
    config = ServeDeploySchema(**yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


@pytest.mark.parametrize("case", ["8xh100", "8xh100-whole"])
def test_a_machine_of_the_cluster_has_room_for_one_gang_exactly(case: str) -> None:
    spec = of_kind(rendered(case), "RayService")["engine"]["spec"]
    env = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["runtime_env"]["env_vars"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    shards = int(env["SHARDS"])
    assert shards == 8
    assert int(group["rayStartParams"]["num-gpus"]) == shards * int(env["GPUS_PER_RANK"])
    assert int(group["rayStartParams"]["num-cpus"]) == shards * int(env["CPUS_PER_RANK"])
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == int(env["REPLICAS"])
    worker = pods(rendered(case))["RayService/play-livevideo-engine/gang"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == shards


@pytest.mark.parametrize("case", MATRIX)
def test_every_selector_finds_pods_and_every_port_is_open(case: str) -> None:
    templates = []
    for each in rendered(case):
        match each["kind"]:
            case "Deployment" | "StatefulSet":
                templates.append(each["spec"]["template"])
            case "RayService":
                templates += [each["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]]
    for each in rendered(case):
        if each["kind"] == "Service":
            selector = each["spec"]["selector"].items()
            found = [one for one in templates if selector <= one["metadata"]["labels"].items()]
            assert len(found) == 1, each["metadata"]["name"]
            opened = {port["containerPort"] for port in found[0]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= opened
        if each["kind"] == "PodDisruptionBudget":
            selector = each["spec"]["selector"]["matchLabels"].items()
            assert any(selector <= one["metadata"]["labels"].items() for one in templates)
