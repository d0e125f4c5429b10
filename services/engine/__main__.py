"""`python -m services.engine`: one engine replica on its own port."""

from pathlib import Path

from aapt.rollout import Rollout
from services import app
from services.engine.model import described, load
from services.engine.service import EngineService, Settings
from services.errors import ServiceError


def service(settings: Settings) -> EngineService:
    """An engine that plays a checkpoint. Raises services.errors.BadCheckpoint."""
    model = load(Path(settings.checkpoint))
    return EngineService(Rollout(model, settings.slots), described(model.preset), settings)


def main() -> None:
    try:
        settings = app.settings_from_env(Settings)
        engine = service(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    engine.reached_at(settings.advertised_address or settings.address)
    app.run(engine, settings, max_message_bytes=app.MAX_WINDOW_BYTES)


if __name__ == "__main__":
    main()
