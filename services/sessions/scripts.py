"""Every change of state, as one Lua script each: Redis runs a script whole or not at all.

All keys carry one hash tag, so a script may touch several models and tenants at once, on a cluster too. Times
come from Redis, the one clock that all instances share. A script answers a list: a status, then findings.

Key of all:
    models     zset  name of a model -> when it was last announced, ms
Keys of a model:
    replicas   zset  name of a replica -> end of its lease, ms
    details    hash  name of a replica -> "slots address"
    seats      zset  session -> end of its seat, ms
    seat_of    hash  session -> name of the replica that keeps the seat
    taken      hash  name of a replica -> how many seats are taken there
    model      the Model message, while a replica announces it
Keys of a session:
    session    hash  record (the Session message as opened, without its picture), image,
                     state (a SessionState), epoch, seq (of the newest control), replica, address
    controls   stream; a control has the id seq-0, marks (epoch, closed) follow it as seq-1, seq-2, ...
    receipts   stream of ControlReceipt messages, and the mark closed
"""

from services.errors import (
    EngineFull,
    NoEngine,
    SeatTaken,
    ServiceError,
    SessionClosed,
    Superseded,
    UnknownSession,
)

_TAG = "{livevideo}"
MODELS = f"{_TAG}:models"


def placing_keys(model: str) -> list[str]:
    """Keys 1 to 5 of each script that places."""
    return [f"{_TAG}:model:{model}:{part}" for part in ("replicas", "details", "seats", "seat_of", "taken")]


def model_key(model: str) -> str:
    return f"{_TAG}:model:{model}:model"


def session_key(session_id: str, part: str) -> str:
    return f"{_TAG}:session:{session_id}:{part}"


def refusal(status: str, about: str) -> ServiceError:
    """What a status other than ok means; `about` is what was asked for, as the message should name it."""
    match status:
        case "unknown_session":
            return UnknownSession(f"{about} is not known, or has expired; open a new one")
        case "session_closed":
            return SessionClosed(f"{about} has ended; open a new one")
        case "seat_taken":
            return SeatTaken(f"{about} has a viewer already; close that one, or open another session")
        case "superseded":
            return Superseded(f"{about} was claimed in a newer epoch; let go of it")
        case "engine_full":
            return EngineFull(f"{about} finds every slot taken; try again soon", retry_after_s=5.0)
        case "no_engine":
            return NoEngine(f"{about} finds no live engine; try again soon", retry_after_s=2.0)
    raise ValueError(f"a script answered {status!r}, which no refusal is made for; add it here")


# KEYS models. Writes, so that a Redis that only reads says so.
CHECK = """
redis.call('ZREM', KEYS[1], '')
return {'ok'}
"""

# In front of each script that places. A seat that was not renewed is given up before anything is decided.
_SEATS = """
local replicas, details, seats, seat_of, taken, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local WAITING, LIVE, CLOSED = '1', '2', '3'
local DAY_MS = 86400000
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function leave(id)
  local replica = redis.call('HGET', seat_of, id)
  redis.call('ZREM', seats, id)
  if replica then
    redis.call('HDEL', seat_of, id)
    if redis.call('HINCRBY', taken, replica, -1) < 1 then redis.call('HDEL', taken, replica) end
  end
end

local function sit(id, replica, keep_ms)
  if redis.call('HGET', seat_of, id) ~= replica then
    leave(id)
    redis.call('HSET', seat_of, id, replica)
    redis.call('HINCRBY', taken, replica, 1)
  end
  redis.call('ZADD', seats, now_ms + keep_ms, id)
  for i = 3, 5 do redis.call('PEXPIRE', KEYS[i], DAY_MS) end
end

local function room(replica)
  local slots, address = string.match(redis.call('HGET', details, replica) or '', '^(%d+) (.+)$')
  if not slots then return nil end
  return tonumber(slots) - tonumber(redis.call('HGET', taken, replica) or '0'), address
end

-- One that stops announces no slots: its sessions need not wait for the end of its lease.
local function is_alive(replica)
  local is_leaving = string.match(redis.call('HGET', details, replica) or '', '^0 ')
  return not is_leaving and tonumber(redis.call('ZSCORE', replicas, replica) or '0') > now_ms
end

-- The live replica with the most room, and its address; or nil and why.
local function roomiest()
  local best, best_address, most = nil, 'no_engine', 0
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, now_ms, '+inf')) do
    local free, address = room(replica)
    if free and free > most then
      best, best_address, most = replica, address, free
    elseif not best then
      best_address = 'engine_full'
    end
  end
  return best, best_address
end

-- A full Redis refuses a script at its first write or not at all. This one takes no room and is let through,
-- so that leases, seats and ends go on; OPEN writes before it, and is refused.
redis.call('ZREM', seats, '')
for _, id in ipairs(redis.call('ZRANGEBYSCORE', seats, '-inf', now_ms)) do leave(id) end
"""

# KEYS 6 model, 7 models. ARGV replica, "slots address", lease_ms, Model, kept_ms, the model's name,
# longest_seat_ms. A clock that was set back would keep the dead alive until it has caught up.
ANNOUNCE = (
    _SEATS
    + """
local lease_ms = tonumber(ARGV[3])
redis.call('ZADD', replicas, now_ms + lease_ms, ARGV[1])
redis.call('HSET', details, ARGV[1], ARGV[2])
redis.call('SET', KEYS[6], ARGV[4], 'PX', lease_ms)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', replicas, '-inf', now_ms - 20 * lease_ms)) do
  redis.call('ZREM', replicas, gone)
  redis.call('HDEL', details, gone)
end
for set, longest_ms in pairs({[replicas] = lease_ms, [seats] = tonumber(ARGV[7])}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '(' .. now_ms + longest_ms, '+inf')) do
    redis.call('ZADD', set, now_ms + longest_ms, id)
  end
end
redis.call('ZADD', KEYS[7], now_ms, ARGV[6])
redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now_ms - tonumber(ARGV[5]))
for _, i in ipairs({1, 2, 3, 4, 5, 7}) do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return {'ok'}
"""
)

# ARGV id, record, image, keep_ms, kept_ms.
OPEN = (
    """
redis.call('HSET', KEYS[6], 'record', ARGV[2], 'image', ARGV[3])
"""
    + _SEATS
    + """
local replica, address = roomiest()
if not replica then
  redis.call('DEL', session)
  return {address}
end
sit(ARGV[1], replica, tonumber(ARGV[4]))
redis.call('HSET', session, 'state', WAITING, 'epoch', 0, 'seq', '0', 'replica', replica, 'address', address)
redis.call('PEXPIRE', session, ARGV[5])
return {'ok', replica, address}
"""
)

# ARGV id, keep_ms. A session whose seat has lapsed, or whose replica died, is placed anew if there is room.
FIND = (
    _SEATS
    + """
local state = redis.call('HGET', session, 'state')
if not state then return {'unknown_session'} end
local kept = redis.call('HGET', seat_of, ARGV[1])
if state ~= CLOSED and not (kept and (state == LIVE or is_alive(kept))) then
  local replica, address = roomiest()
  if kept and not replica then leave(ARGV[1]) end
  if replica then
    -- The replica that it had knows the model's text and picture already.
    local before = redis.call('HGET', session, 'replica')
    if is_alive(before) and (room(before) or 0) > 0 then
      local _, known = room(before)
      replica, address = before, known
    end
    sit(ARGV[1], replica, tonumber(ARGV[2]))
    redis.call('HSET', session, 'replica', replica, 'address', address)
  end
  redis.call('HSET', session, 'state', WAITING)
end
return {'ok', unpack(redis.call('HMGET', session, 'record', 'state', 'epoch', 'replica', 'address'))}
"""
)

# KEYS 7 controls. ARGV id, replica, live_ms, kept_ms.
CLAIM = (
    _SEATS
    + """
local state = redis.call('HGET', session, 'state')
if not state then return {'unknown_session'} end
if state == CLOSED then return {'session_closed'} end
local kept = redis.call('HGET', seat_of, ARGV[1])
if state == LIVE and kept then return {'seat_taken'} end
local free, address = room(ARGV[2])
if not free then return {'no_engine'} end
if kept ~= ARGV[2] and free < 1 then return {'engine_full'} end
sit(ARGV[1], ARGV[2], tonumber(ARGV[3]))
local epoch = redis.call('HINCRBY', session, 'epoch', 1)
redis.call('HSET', session, 'state', LIVE, 'replica', ARGV[2], 'address', address)
redis.call('XADD', KEYS[7], redis.call('HGET', session, 'seq') .. '-*', 'epoch', epoch)
redis.call('PEXPIRE', session, ARGV[4])
redis.call('PEXPIRE', KEYS[7], ARGV[4])
return {'ok', unpack(redis.call('HMGET', session, 'record', 'state', 'epoch', 'replica', 'address', 'image',
  'seq'))}
"""
)

# KEYS 7 controls, 8 receipts. ARGV id, epoch, live_ms, kept_ms.
RENEW = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'epoch', 'replica')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'session_closed'} end
if found[2] ~= ARGV[2] then return {'superseded', found[2]} end
sit(ARGV[1], found[3], tonumber(ARGV[3]))
redis.call('HSET', session, 'state', LIVE)
for i = 6, 8 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return {'ok'}
"""
)

# ARGV id, epoch. An engine that was superseded has no seat to give up.
RELEASE = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'epoch')
if found[1] == LIVE and found[2] == ARGV[2] then
  leave(ARGV[1])
  redis.call('HSET', session, 'state', WAITING)
end
return {'ok'}
"""
)

# KEYS 7 controls, 8 receipts. ARGV id, kept_ms.
CLOSE = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'seq')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'ok'} end
leave(ARGV[1])
redis.call('HSET', session, 'state', CLOSED)
redis.call('HDEL', session, 'image')
redis.call('XADD', KEYS[7], found[2] .. '-*', 'closed', '')
redis.call('XADD', KEYS[8], '*', 'closed', '')
for i = 6, 8 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return {'ok'}
"""
)

# KEYS session, receipts. Answers the record, and the receipt after which new ones will come.
ATTACH = """
local found = redis.call('HMGET', KEYS[1], 'state', 'record')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed'} end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {'ok', found[2], newest[1] and newest[1][1] or '0-0'}
"""

# KEYS session, controls. ARGV seq, control, most, kept_ms. Seqs have 64 bits, Lua's numbers 53: text.
PUSH = """
local found = redis.call('HMGET', KEYS[1], 'state', 'seq')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed'} end
local seq, last = ARGV[1], found[2]
if #seq < #last or (#seq == #last and seq <= last) then return {'old_seq', last} end
redis.call('HSET', KEYS[1], 'seq', seq)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], seq .. '-0', 'control', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'ok'}
"""

# KEYS session, receipts. ARGV epoch, receipt, most, kept_ms.
OBEYED = """
local found = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed'} end
if found[2] ~= ARGV[1] then return {'superseded', found[2]} end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'receipt', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'ok'}
"""

# What these have changed is told to somebody, who goes on from there.
ACKNOWLEDGED = (OPEN, CLAIM, CLOSE, PUSH)
