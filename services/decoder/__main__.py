"""`python -m services.decoder`: one decoder on its own port."""

from pathlib import Path

from aapt import checkpoint
from aapt.serving import CannotServe, best_serving, place_codec
from services import app
from services.decoder.service import DecoderService, Settings
from services.errors import BadCheckpoint, BadSetting, ServiceError


def service(settings: Settings) -> DecoderService:
    """A decoder with the codec of a checkpoint. Raises services.errors.BadCheckpoint or BadSetting."""
    try:
        vae = checkpoint.load_vae(Path(settings.checkpoint))
        return DecoderService(place_codec(vae, best_serving(settings.device)), settings)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error
    except CannotServe as error:
        raise BadSetting(str(error)) from error


def main() -> None:
    try:
        settings = app.settings_from_env(Settings)
        decoder = service(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    app.run(decoder, settings)


if __name__ == "__main__":
    main()
