"""`python -m services.web` serves the page on its own."""

from services.app import run
from services.web.service import Settings, WebService

if __name__ == "__main__":
    run(Settings, WebService, trouble=WebService.trouble)
