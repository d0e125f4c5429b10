"""`python -m services.sessions` runs the service on its own; `... tenants --help` administers its tenants."""

import sys

from services.app import run
from services.sessions import command
from services.sessions.service import SessionService, Settings

if __name__ == "__main__":
    if sys.argv[1:2] == ["tenants"]:
        sys.exit(command.main(sys.argv[2:]))
    run(
        Settings,
        SessionService,
        internal_address=lambda settings: settings.internal_address,
        trouble=SessionService.trouble,
    )
