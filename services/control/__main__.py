"""`python -m services.control` runs the service on its own."""

from services.app import run
from services.control.service import ControlService, Settings

if __name__ == "__main__":
    run(Settings, ControlService, trouble=ControlService.trouble)
