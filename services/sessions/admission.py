"""What must be true of a request before anything is stored for it."""

import math
import re
import secrets
import time

from livevideo.v1.session_pb2 import AnnounceRequest, Model, OpenRequest, Session
from services.errors import BadRequest, NoEngine, QuotaExceeded, UnknownModel
from services.sessions.pictures import Pictures
from services.sessions.tenancy import Entrant

MAX_PROMPT_BYTES = 2000
MAX_SLOTS = 4096
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_ADDRESS = re.compile(r"[!-~]{1,200}:[0-9]{1,5}")


def chosen_model(name: str, live: dict[str, Model], known: set[str]) -> Model:
    """The model that `name` asks for; "" is the only one. Raises UnknownModel, NoEngine, BadRequest."""
    listed = ", ".join(sorted(live)) or "none"
    if name in live:
        return live[name]
    if name in known or not known:
        raise NoEngine(f"no engine serves model {name[:80]!r} now; try again soon", retry_after_s=2.0)
    if name:
        raise UnknownModel(f"no engine has announced a model {name[:80]!r}; there are: {listed}")
    if not live:
        raise NoEngine("no engine serves any model now; try again soon", retry_after_s=2.0)
    if len(live) > 1:
        raise BadRequest("model", f"is empty and there are several; choose one of: {listed}")
    return next(iter(live.values()))


async def record(
    request: OpenRequest, entrant: Entrant, pictures: Pictures, live: dict[str, Model], known: set[str]
) -> Session:
    """What is asked for, as it would be stored. Raises UnknownModel, NoEngine, BadRequest, QuotaExceeded.

    What is cheap to refuse is refused before a picture is decoded.
    """
    model = chosen_model(request.model, live, known)
    check_open(request)
    check_quotas(request, model, entrant)
    image = await pictures.plain(request.image, model) if request.image else b""
    return Session(
        tenant=entrant.tenant if entrant.key_id else request.tenant or entrant.tenant,
        model=model,
        seed=request.seed or secrets.randbelow(2**31 - 1) + 1,
        image=image,
        prompt=request.prompt,
        opened_at_s=time.time(),
        controls_per_s=entrant.quotas.controls_per_s,
    )


def check_quotas(request: OpenRequest, model: Model, entrant: Entrant) -> None:
    """What a tenant may never have; what it may not have now is decided with the seat."""
    tenant, quotas, pixels = entrant.tenant, entrant.quotas, model.width_px * model.height_px
    if entrant.key_id and request.tenant not in ("", tenant):
        raise BadRequest("tenant", f"is {request.tenant!r}, and the key is another's; leave it empty")
    if quotas.pixels and pixels > quotas.pixels:
        message = f"may play pictures of {quotas.pixels} pixels; model {model.name} has {pixels}"
        raise QuotaExceeded(tenant, "pixels", message)
    if quotas.image_bytes and len(request.image) > quotas.image_bytes:
        message = f"may send pictures of {quotas.image_bytes} bytes; this one has {len(request.image)}"
        raise QuotaExceeded(tenant, "image_bytes", message)


def check_open(request: OpenRequest) -> None:
    """Raises BadRequest for a field that cannot be, whatever the model: the tenant, the prompt."""
    if request.tenant and not _NAME.fullmatch(request.tenant):
        raise BadRequest("tenant", "must be 1 to 128 letters, digits or _ . : -")
    prompt_bytes = len(request.prompt.encode())
    if prompt_bytes > MAX_PROMPT_BYTES:
        raise BadRequest("prompt", f"has {prompt_bytes} bytes; send at most {MAX_PROMPT_BYTES}")


def check_announce(request: AnnounceRequest) -> None:
    """Raises BadRequest for a replica that could not be found, named or counted."""
    model = request.model
    if not _NAME.fullmatch(request.replica):
        raise BadRequest("replica", "must be 1 to 128 letters, digits or _ . : -")
    if not _ADDRESS.fullmatch(request.address):
        raise BadRequest("address", f"is {request.address[:80]!r}; it must be host:port")
    if not _MODEL_NAME.fullmatch(model.name):
        raise BadRequest("model.name", "must be 1 to 64 letters, digits or _ . -")
    if not (model.width_px and model.height_px):
        raise BadRequest("model", f"is {model.width_px}x{model.height_px} pixels; both must be above 0")
    if not (math.isfinite(model.frames_per_second) and model.frames_per_second > 0):
        raise BadRequest("model.frames_per_second", f"is {model.frames_per_second}; it must be above 0")
    if request.slots > MAX_SLOTS:
        raise BadRequest("slots", f"is {request.slots}; at most {MAX_SLOTS}")
    if not (math.isfinite(request.step_s) and request.step_s >= 0):
        raise BadRequest("step_s", f"is {request.step_s}; it must be 0 or more")


def check_replica(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadRequest("replica", "must be 1 to 128 letters, digits or _ . : -")
