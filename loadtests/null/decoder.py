"""`python -m loadtests.null.decoder`: a decoder of ours around a codec that costs nothing."""

from loadtests.null.world import NullCodec
from services import app
from services.decoder.service import DecoderService, Settings


def service(settings: Settings) -> DecoderService:
    """As `python -m services.decoder` makes it, but for the codec."""
    return DecoderService(NullCodec, settings)


if __name__ == "__main__":
    app.run(Settings, service, trouble=DecoderService.trouble)
