"""`python -m services.sessions` runs the service on its own."""

from services.app import run
from services.sessions.service import SessionService, Settings

if __name__ == "__main__":
    run(
        Settings,
        SessionService,
        internal_address=lambda settings: settings.internal_address,
        trouble=SessionService.trouble,
    )
