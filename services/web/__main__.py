"""`python -m services.web` serves the page on its own."""

from services.app import run, settings_from_env
from services.web.service import Settings, WebService


def main() -> None:
    settings = settings_from_env(Settings)
    run(WebService(settings), settings)


if __name__ == "__main__":
    main()
