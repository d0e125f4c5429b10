"""What scripts need to know of tenants: their quotas and usage, who waits for a seat, who must give one up.

Keys of all:
    tenants    set   names of all tenants; once there is one, nobody gets in without a key
    keys       hash  id of a key -> "tenant hash made_ms expires_ms"; one that is revoked is not there
Keys of a tenant:
    tenant     hash  its Quotas by field, added_ms, revoked_ms
    open       zset  session -> until when it counts, ms: it is played, or may be resumed
    usage      hash  "DAY:ms", "DAY:latents", "DAY:sessions" -> how much; days since 1970
Keys of a model:
    ranked     zset  session that has been played -> 1e13 priority - when it was opened, ms: lowest goes first
    notices    hash  session that must give up its seat -> "heir" or "heir ends_ms"
    queue      zset  session that waits to be opened -> its turn
    waiting    hash  the same -> its tenant
    alive      zset  the same -> until when it waits if nothing is heard, ms
    pace       hash  virtual (the turn of whoever was seated last), mean_ms (between two seats given out while
                     somebody was kept waiting), last_ms (when the last one was, or the waiting began)
"""

from dataclasses import dataclass, field

from livevideo.v1.admin_pb2 import Quotas
from services.sessions import scripts

TENANTS = f"{scripts.TAG}:tenants"
KEYS = f"{scripts.TAG}:keys"
DEFAULT_PRIORITY = 5


@dataclass(frozen=True)
class Entrant:
    """Who opens a session. Without a key: somebody in a deployment that is open to all."""

    tenant: str = "default"
    key_id: str = ""
    quotas: Quotas = field(default_factory=Quotas)


def tenant_key(tenant: str, part: str) -> str:
    return f"{scripts.TAG}:tenant:{tenant}:{part}"


def keys(tenant: str, model: str) -> list[str]:
    """The last keys of each script that has to do with tenants, in the order of the names in TENANCY."""
    of_model = ("ranked", "notices", "queue", "waiting", "alive", "pace")
    return [
        TENANTS,
        KEYS,
        *(tenant_key(tenant, part) for part in ("tenant", "open", "usage")),
        *(f"{scripts.TAG}:model:{model}:{part}" for part in of_model),
    ]


# Behind scripts.SEATS.
TENANCY = """
local tenants, keys, tenant, open, usage, ranked, notices, queue, waiting, alive, pace =
  unpack(KEYS, #KEYS - 10)
local DAY_MS, LONGEST_MS, RANK = 86400000, 120000, 1e13
local day = math.floor(now_ms / DAY_MS)

local function number(hash, name) return tonumber(redis.call('HGET', hash, name) or '0') end

local function is_let_in(key_id)
  if key_id == '' then return redis.call('SCARD', tenants) == 0 end
  return redis.call('HEXISTS', keys, key_id) == 1
end

local function use(what, amount)
  if amount <= 0 then return end
  redis.call('HINCRBY', usage, day .. ':' .. what, amount)
  redis.call('HDEL', usage, (day - 400) .. ':ms', (day - 400) .. ':latents', (day - 400) .. ':sessions')
  redis.call('PEXPIRE', usage, 400 * DAY_MS)
end

local function count(id, keep_ms)
  redis.call('ZADD', open, now_ms + keep_ms, id)
  redis.call('PEXPIRE', open, DAY_MS)
end

local function forget(id)
  redis.call('ZREM', open, id)
  redis.call('ZREM', ranked, id)
  redis.call('HDEL', notices, id)
end

-- The refusal of one more session of this tenant, where a quota refuses it; else nil.
local function excess(id, name)
  local most, day_ms = number(tenant, 'sessions'), number(tenant, 'day_ms')
  if day_ms > 0 and number(usage, day .. ':ms') >= day_ms then
    return {'quota', name, 'minutes_per_day', day_ms, (day + 1) * DAY_MS - now_ms}
  end
  if most == 0 then return nil end
  redis.call('ZREMRANGEBYSCORE', open, '-inf', now_ms)
  local has = redis.call('ZCARD', open)
  if has < most then
    local others = redis.call('HGETALL', waiting)
    for i = 1, #others, 2 do
      if others[i + 1] == name and others[i] ~= id then has = has + 1 end
    end
  end
  if has >= most then return {'quota', name, 'sessions', most, 0} end
end
"""

# KEYS 7 controls, 8 receipts, 9 snapshot. ARGV id, kept_ms, why.
CLOSE = (
    scripts.SEATS
    + scripts.ENDING
    + TENANCY
    + """
local state = redis.call('HGET', session, 'state')
if not state then return {'unknown_session'} end
if state ~= CLOSED then finish(ARGV[1], ARGV[3], ARGV[2]) end
forget(ARGV[1])
return {'ok'}
"""
)

# KEYS 7 controls, 8 receipts, 9 snapshot. ARGV id, epoch, latents, kept_ms (once it has ended), keep_ms,
# notice_ms. Counts what an engine has made and how long it took, and ends the session whose time is up.
METER = (
    scripts.SEATS
    + scripts.ENDING
    + TENANCY
    + """
local id, epoch = ARGV[1], ARGV[2]
local found = redis.call('HMGET', session, 'state', 'epoch', 'key_id', 'metered_epoch', 'seq', 'heard_seq',
  'notice', 'ended', 'ended_ms', 'tenant')
local state, key_id, is_first, seq, told = found[1], found[3], found[4] ~= epoch, found[5], found[7]
if not state then return {'unknown_session'} end
if is_superseded(epoch, found[2]) then return {'superseded'} end
if not key_id then return {'ok'} end

if is_first and not redis.call('ZSCORE', open, id) then
  local too_much = state ~= CLOSED and excess(id, found[10])
  if too_much then return too_much end
end
local until_ms = state == CLOSED and tonumber(found[9]) or now_ms
-- Redis may have been away for a while; a clock that jumps is not paid for.
if not is_first then use('ms', math.min(until_ms - number(session, 'metered_ms'), LONGEST_MS)) end
local more = tonumber(ARGV[3]) - number(session, 'latents')
if more > 0 then
  use('latents', more)
  redis.call('HSET', session, 'latents', ARGV[3])
end
redis.call('HSET', session, 'metered_epoch', epoch, 'metered_ms', until_ms)
if state == CLOSED then return {'session_closed', found[8]} end

local function ended(why)
  finish(id, why, ARGV[4])
  forget(id)
  return {'session_closed', why}
end
if not is_let_in(key_id) then return ended('revoked') end
count(id, tonumber(ARGV[5]))
local opened_ms = number(session, 'opened_ms')
redis.call('ZADD', ranked, number(tenant, 'priority') * RANK - opened_ms, id)
redis.call('PEXPIRE', ranked, DAY_MS)
if is_first or seq ~= found[6] then redis.call('HSET', session, 'heard_seq', seq, 'heard_ms', now_ms) end

local ends_ms, why = math.huge, ''
local function at_latest(at_ms, reason)
  if at_ms < ends_ms then ends_ms, why = at_ms, reason end
end
local session_ms, idle_ms = number(tenant, 'session_ms'), number(tenant, 'idle_ms')
local day_ms, notice_ms = number(tenant, 'day_ms'), tonumber(ARGV[6])
if session_ms > 0 then at_latest(opened_ms + session_ms, 'time_up') end
if idle_ms > 0 then at_latest(number(session, 'heard_ms') + idle_ms, 'idle') end
if day_ms > 0 then
  local left_ms = day_ms - number(usage, day .. ':ms')
  at_latest(now_ms + math.floor(left_ms / redis.call('ZCARD', open)), 'minutes_used')
end
local heir, told_ms = string.match(redis.call('HGET', notices, id) or '', '^(%S+) ?(%d*)')
if heir and not redis.call('ZSCORE', queue, heir) then
  redis.call('HDEL', notices, id)
elseif heir then
  if told_ms == '' then
    told_ms = now_ms + notice_ms
    redis.call('HSET', notices, id, heir .. ' ' .. told_ms)
  end
  at_latest(tonumber(told_ms), 'preempted')
end

if now_ms >= ends_ms then return ended(why) end
if ends_ms - now_ms > notice_ms then ends_ms, why = 0, '' end
if why ~= (string.match(told or '', '^%S+') or '') then
  local notice = why .. ' ' .. ends_ms
  redis.call('HSET', session, 'notice', notice)
  redis.call('XADD', KEYS[8], '*', 'notice', notice)
  redis.call('PEXPIRE', KEYS[8], redis.call('PTTL', session))
end
return {'ok'}
"""
)
