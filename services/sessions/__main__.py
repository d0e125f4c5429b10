"""`python -m services.sessions` runs the service on its own."""

from services.app import run, settings_from_env
from services.sessions.service import SessionService, Settings


def main() -> None:
    settings = settings_from_env(Settings)
    run(SessionService(settings), settings)


if __name__ == "__main__":
    main()
