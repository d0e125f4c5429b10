"""`python -m services.engine`: one engine replica on its own port."""

from pathlib import Path

from services import app
from services.engine.model import described, load
from services.engine.service import EngineService, Settings
from services.engine.world import on_one_device


def service(settings: Settings) -> EngineService:
    """An engine that plays a checkpoint, warmed up. Raises services.errors.BadCheckpoint or BadSetting."""
    model = load(Path(settings.checkpoint))
    world = on_one_device(
        model, settings.slots, settings.device, is_compiled=settings.is_compiled, fp8=settings.fp8
    )
    engine = EngineService(world, described(model.preset), settings)
    engine.reached_at(settings.advertised_address or settings.address)
    return engine


if __name__ == "__main__":
    app.run(Settings, service, trouble=EngineService.trouble)
