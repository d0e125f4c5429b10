"""`python -m services.sessions` runs the service on its own."""

from services.app import run, settings_from_env
from services.errors import ServiceError
from services.sessions.service import SessionService, Settings


def main() -> None:
    try:
        settings = settings_from_env(Settings)
        service = SessionService(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    run(service, settings)


if __name__ == "__main__":
    main()
