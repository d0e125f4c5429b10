"""How a session ended, as the refusal of whoever still asks for it."""

from services.errors import Preempted, Revoked, SessionClosed, TimeUp


def ended(about: str, why: str) -> SessionClosed:
    """The refusal of a session that has ended, by what ended it."""
    match why:
        case "preempted":
            return Preempted(f"{about} gave its seat to a tenant of higher priority; wait for another")
        case "revoked":
            return Revoked(f"{about} has ended, as its key was revoked; open another with a good key")
        case "time_up" | "idle" | "minutes_used":
            return TimeUp(f"{about} has ended ({why}): its tenant's quota allows no more; open a new one")
    return SessionClosed(f"{about} has ended; open a new one")
