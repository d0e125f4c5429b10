"""`python -m loadtests.null.engine`: an engine of ours around a world that costs nothing."""

from loadtests.null.world import MODEL, NullWorld
from services import app
from services.engine.service import EngineService, Settings


def service(settings: Settings) -> EngineService:
    """As `python -m services.engine` makes it, but for the world."""
    engine = EngineService(NullWorld(settings.slots), MODEL, settings)
    engine.reached_at(settings.advertised_address or settings.address)
    return engine


if __name__ == "__main__":
    app.run(Settings, service, trouble=EngineService.trouble)
