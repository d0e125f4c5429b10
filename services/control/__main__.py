"""`python -m services.control` runs the service on its own."""

from services.app import run, settings_from_env
from services.control.service import ControlService, Settings
from services.errors import ServiceError


def main() -> None:
    try:
        settings = settings_from_env(Settings)
        service = ControlService(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    run(service, settings)


if __name__ == "__main__":
    main()
