"""Values that cannot be: a render error in a sentence that names the value, before anything is applied."""

import pytest

from tests.chart.rendering import KINDS, preset, template

ROUTES = ("gateway.enabled=true", "gateway.parentRefs[0].name=g")
SCALED = ("autoscaling.kind=keda", "autoscaling.prometheusUrl=http://p")
REFUSALS = [
    ("local", ("redis.trial.enabled=false",), "redis.url is empty; give the address"),
    ("gpu", ("redis.trial.enabled=true",), "redis.url and redis.trial.enabled are both set"),
    ("gpu", ("redis.url=rediss://me:secret@redis:6379",), "redis.url holds a user or a password"),
    ("gpu", ("redis.url=redis.example.com",), "begin it with redis://"),
    ("gpu", ("redis.url=redis://redis:6379",), "is no address with TLS; begin it with rediss"),
    ("gpu", ("redis.sentinelPassword.secret=s",), "names no Sentinels; begin it with redis+sentinel://"),
    ("local", ("tls.players.secret=players",), "tls.players.secret is set and tls.mode is none"),
    ("gpu", ("tls.players.secret=players", *ROUTES, "gateway.caConfigMap=ca"), "leave one of them out"),
    ("8xh100", ("engine.ray.gcs.caSecret=ca",), "engine.ray.gcs.caSecret is set"),
    ("gpu", ("redis.password.secret=",), "redis.password.secret is empty; name the Secret"),
    ("local", ("redis.copies=1",), "redis.copies is 1"),
    ("local", ("image.tag=latest",), "image.tag is latest"),
    ("local", ("tls.mode=",), "tls.mode is empty; choose"),
    ("gpu", ("tls.issuer.name=",), "tls.issuer.name is empty; name the issuer"),
    ("local", ("tls.mode=secrets",), "is empty; name the Secret with its tls.crt"),
    ("local", ("tls.page=page",), "tls.page is set and tls.mode is none"),
    ("local", ("gateway.enabled=true",), "gateway.parentRefs is empty"),
    ("gpu", ("gateway.enabled=true", "gateway.parentRefs[0].name=g"), "gateway.caConfigMap is empty"),
    ("local", ("tracing.sampling=0.01",), "tracing.sampling is 0.01 and tracing.endpoint is empty"),
    ("local", ("tracing.endpoint=collector",), 'tracing.endpoint is "collector"; write it with its port'),
    ("gpu", ("autoscaling.kind=keda",), "autoscaling.prometheusUrl is empty"),
    ("gpu", ("autoscaling.kind=hpa", "autoscaling.minReplicas=9"), "autoscaling.minReplicas is 9"),
    (
        "gpu",
        (*SCALED, "autoscaling.sparePercent=10", "autoscaling.maxReplicas=50"),
        "autoscaling.sparePercent is 10: when all seats are taken",
    ),
    ("gpu", ("engine.shards=2",), "engine.shards is 2 and engine.ray.enabled is false"),
    ("gpu", ("engine.gpus=2",), "engine.gpus is 2 and engine.ray.enabled is false"),
    ("8xh100", ("engine.shards=4",), "engine.gpus is 8 and engine.shards is 4"),
    ("8xh100", ("engine.ray.gcs.redisAddress=",), "engine.ray.gcs.redisAddress is empty"),
    ("8xh100", ("engine.ray.gcs.redisAddress=redis://:x@r:1",), "redisAddress holds a user or a password"),
    ("8xh100", ("engine.ray.upgrade.gatewayClassName=",), "gatewayClassName is empty"),
    ("8xh100", ("autoscaling.kind=hpa",), "a RayService cannot be scaled from outside"),
    (
        "8xh100",
        ("engine.settings.IS_COMPILED=true",),
        "engine.settings.IS_COMPILED is true and engine.shards is 8",
    ),
    ("gpu", ("decoder.gpus=2",), "decoder.gpus is 2"),
    ("gpu", ("engine.drainSeconds=60",), "make graceSeconds more than 65"),
    ("local", ("decoder.graceSeconds=20",), "decoder.graceSeconds is 20"),
]


@pytest.mark.parametrize(("case", "values", "sentence"), REFUSALS, ids=[each[2][:40] for each in REFUSALS])
def test_a_contradiction_is_a_sentence(case: str, values: tuple[str, ...], sentence: str) -> None:
    done = template(preset(case), values)
    assert done.returncode
    assert sentence in done.stderr
    assert not done.stdout


TYPOS = [
    "engin.replicas=2",
    "engine.replica=2",
    "engine.replicas=two",
    "engine.replicas=-1",
    "control.preStopSeconds=0",
    "control.settings.BURTS=50",
    "control.settings.BURST=many",
    "engine.settings.SLOTS=8",  # follows from engine.slots
    "redis.password.name=secret",
    "image.pullPolicy=Sometimes",
    "tls.mode=mutual",
    "gpu.tolerations=all",
    "decoder.resources.limit.memory=1Gi",
    "tracing.sampling=much",
    "tracing.sampling=1.5",
    "control.settings.TRACE_SAMPLING=0.1",  # follows from tracing.sampling
]


@pytest.mark.parametrize("helm", ["helm-3", "helm-4"])
@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_is_refused(typo: str, helm: str) -> None:
    done = template(preset("local"), (typo,), helm)
    assert done.returncode
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize(
    ("case", "values", "kind", "value"),
    [
        ("8xh100", (), "ray.io/v1", "engine.ray.enabled"),
        ("gpu", (), "cert-manager.io/v1", "tls.mode"),
        ("gpu", (), "monitoring.coreos.com/v1", "metrics.serviceMonitor.enabled"),
        ("local", ROUTES, "gateway.networking.k8s.io/v1", "gateway.enabled"),
        ("local", SCALED, "keda.sh/v1alpha1", "autoscaling.kind"),
    ],
)
def test_what_the_cluster_does_not_know_is_refused(
    case: str, values: tuple[str, ...], kind: str, value: str
) -> None:
    done = template(preset(case), values, kinds=[each for each in KINDS if each != kind])
    assert done.returncode
    assert f"{value} asks for" in done.stderr
    assert kind in done.stderr
