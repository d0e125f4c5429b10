"""`python -m services.decoder`: one decoder on its own port."""

from pathlib import Path

from aapt import checkpoint
from aapt.serving import CannotServe, best_serving, place_codec
from services import app
from services.decoder.codec import streaming
from services.decoder.service import DecoderService, Settings
from services.errors import BadCheckpoint, BadSetting


def service(settings: Settings) -> DecoderService:
    """A decoder with the codec of a checkpoint. Raises services.errors.BadCheckpoint or BadSetting."""
    try:
        vae = checkpoint.load_vae(Path(settings.checkpoint))
        return DecoderService(streaming(place_codec(vae, best_serving(settings.device))), settings)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error
    except CannotServe as error:
        raise BadSetting(str(error)) from error


if __name__ == "__main__":
    app.run(Settings, service, trouble=DecoderService.trouble)
