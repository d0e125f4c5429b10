"""Access: who may open sessions, and who may see one. Whatever is not one's own is not known."""

from services.app import Context
from services.credentials import presented
from services.errors import Unauthenticated
from services.sessions import keys, refusals
from services.sessions.tenancy import Entrant
from services.sessions.tenants import Holder, TenantStore


class Access:
    """Judges the secret that a call brings: a tenant's API key, or the token of one session."""

    def __init__(self, tenants: TenantStore, *, asks_for_keys: bool) -> None:
        """`asks_for_keys`: even where there is no tenant yet."""
        self._tenants = tenants
        self._asks_for_keys = asks_for_keys

    async def entrant(self, context: Context) -> Entrant:
        """Who wants to open a session. Raises Unauthenticated.

        Where this instance has once let somebody in by key, an empty Redis does not open the doors to all.
        """
        entrant = await self._tenants.entrant(presented(context))
        self._asks_for_keys |= bool(entrant.key_id)
        if self._asks_for_keys and not entrant.key_id:
            raise refusals.refusal("unauthenticated", "")
        return entrant

    async def holder(self, session_id: str, context: Context) -> Holder:
        """Whose the session is, once that is the caller. Raises UnknownSession, Unauthenticated."""
        secret = presented(context)
        holder = await self._tenants.holder(session_id)
        if keys.is_of(secret, holder.token_hash):
            if holder.token_good_s <= 0:
                raise Unauthenticated(f"the token of session {session_id} has expired; ask with the API key")
            return holder
        try:
            entrant = await self._tenants.entrant(secret)
        except Unauthenticated:
            entrant = None
        is_open_to_all = not holder.key_id
        if is_open_to_all or (entrant is not None and entrant.key_id and entrant.tenant == holder.tenant):
            return holder
        raise refusals.refusal("unknown_session", f"session {session_id}")
