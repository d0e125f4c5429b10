"""Keys and tokens on their way: from a file or the environment into a call, and from one call into the next.

They travel as metadata, `authorization: Bearer SECRET`. *sessions* alone judges them.
"""

import os
import re
from typing import TYPE_CHECKING, Any

from livevideo_client.access import Metadata as Metadata
from livevideo_client.access import bearer as bearer  # what a call carries is the client's own
from services.errors import BadSetting, Unauthenticated
from services.files import secret_in

if TYPE_CHECKING:
    import grpc

API_KEY = "AAPT_API_KEY"
MAX_SECRET_BYTES = 512
_SECRET = re.compile(r"[!-~]{1,400}")
_HEADER, _SCHEME = "authorization", "Bearer "


def carried(context: "grpc.aio.ServicerContext[Any, Any]") -> Metadata:
    """What the caller brought, for a call on its behalf."""
    sent = context.invocation_metadata() or ()
    return tuple((key, str(value)) for key, value in sent if key == _HEADER)


def presented(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The caller's secret; empty where it brought none. Raises Unauthenticated for what can be none."""
    sent = carried(context)
    if not sent:
        return ""
    value = sent[0][1]
    is_bearer = value[: len(_SCHEME)].lower() == _SCHEME.lower()
    if len(sent) > 1 or not is_bearer or len(value) > MAX_SECRET_BYTES:
        raise Unauthenticated(
            f"the authorization cannot be read; send one, 'Bearer KEY', of at most {MAX_SECRET_BYTES} bytes"
        )
    return value[len(_SCHEME) :].strip()


def from_file_or_environment(file: str, variable: str = API_KEY) -> str:
    """What is in `file`, else in the variable; empty where there is neither. Raises BadSetting, which never
    repeats it."""
    secret = secret_in(file) if file else os.environ.get(variable, "").strip()
    if (file or secret) and not _SECRET.fullmatch(secret):
        where = f"the file {file}" if file else variable
        raise BadSetting(f"{where} holds no key; put the key there alone, one line without spaces")
    return secret
