"""`python -m services.web` serves the page on its own."""

from services.app import run, settings_from_env
from services.errors import ServiceError
from services.web.service import Settings, WebService


def main() -> None:
    try:
        settings = settings_from_env(Settings)
        service = WebService(settings)
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal
    run(service, settings)


if __name__ == "__main__":
    main()
