"""`python -m services.control` runs the service on its own."""

from services.app import run, settings_from_env
from services.control.service import ControlService, Settings


def main() -> None:
    settings = settings_from_env(Settings)
    run(ControlService(settings), settings)


if __name__ == "__main__":
    main()
