"""`python -m services.decoder`: one decoder on its own port."""

from pathlib import Path

from aapt import checkpoint
from services import app
from services.decoder.service import DecoderService, Settings
from services.errors import BadCheckpoint, ServiceError


def service(settings: Settings) -> DecoderService:
    """A decoder with the codec of a checkpoint. Raises services.errors.BadCheckpoint."""
    try:
        return DecoderService(checkpoint.load_vae(Path(settings.checkpoint)), settings)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error


def main() -> None:
    try:
        settings = app.settings_from_env(Settings)
        decoder = service(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    app.run(decoder, settings)


if __name__ == "__main__":
    main()
