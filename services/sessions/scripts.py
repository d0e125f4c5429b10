"""Every change of state, as one Lua script each: Redis runs a script whole or not at all.

All keys of one script carry the same hash tag, the model's name, so the scripts also run on a cluster. Times
come from Redis, the one clock that all instances share. A script answers a list: a status, then findings.

Keys of a model:
    replicas   zset  name of a replica -> end of its lease, ms
    details    hash  name of a replica -> "slots address"
    seats      zset  session -> end of its seat, ms
    seat_of    hash  session -> name of the replica that keeps the seat
    taken      hash  name of a replica -> how many seats are taken there
    model      the Model message, while a replica announces it
Keys of a session:
    session    hash  record (the Session message as opened, without its picture), image,
                     state (a SessionState), epoch, seq (of the newest control),
                     replica and address (where its seat is), holder and viewer (of the newest claim)
    controls   stream; a control has the id seq-0, marks (epoch, closed) follow it as seq-1, seq-2, ...
    receipts   stream of ControlReceipt messages, and the mark closed
    snapshot   the newest SnapshotRequest message
"""

from services.errors import (
    EngineFull,
    NoEngine,
    ReplicaTaken,
    SeatTaken,
    ServiceError,
    SessionClosed,
    Superseded,
    UnknownSession,
)


def placing_keys(model: str) -> list[str]:
    """Keys 1 to 5 of each script that places."""
    return [f"livevideo:{{{model}}}:{part}" for part in ("replicas", "details", "seats", "seat_of", "taken")]


def model_key(model: str) -> str:
    return f"livevideo:{{{model}}}:model"


def session_key(session_id: str, part: str) -> str:
    """Of one session; its id begins with the model's name, which is the hash tag."""
    return f"livevideo:{{{session_id.rpartition('-')[0]}}}:{part}:{session_id}"


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
        case "replica_taken":
            return ReplicaTaken(f"{about} is the name of another engine that lives; set another REPLICA")
        case "no_engine":
            return NoEngine(f"{about} finds no live engine; try again soon", retry_after_s=2.0)
    raise ValueError(f"a script answered {status!r}, which no refusal is made for; add it here")


# In front of each script that places. A seat that was not renewed is given up before anything is decided.
_SEATS = """
local replicas, details, seats, seat_of, taken, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local WAITING, LIVE, CLOSED = '1', '2', '3'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- A Redis that lost its last writes may know an older epoch than one that it has given: that one counts.
local function is_superseded(epoch, known)
  return tonumber(epoch) < tonumber(known)
end

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
end

local function room(replica)
  local slots, address = string.match(redis.call('HGET', details, replica) or '', '^(%d+) (.+)$')
  if not slots then return nil end
  return tonumber(slots) - tonumber(redis.call('HGET', taken, replica) or '0'), address
end

local function has_lease(replica)
  return replica and tonumber(redis.call('ZSCORE', replicas, replica) or '0') > now_ms
end

-- One that stops announces no slots: its sessions need not wait for the end of its lease.
local function is_alive(replica)
  return has_lease(replica) and not string.match(redis.call('HGET', details, replica) or '', '^0 ')
end

-- The live replica with the most room but `without`, and its address; or nil and why.
local function roomiest(without)
  local best, best_address, most = nil, 'no_engine', 0
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, now_ms, '+inf')) do
    local free, address = room(replica)
    if replica ~= without and free then
      if free > most then
        best, best_address, most = replica, address, free
      elseif not best then
        best_address = 'engine_full'
      end
    end
  end
  return best, best_address
end

-- Whether an engine plays it: its seat was renewed, and the replica that claimed it has announced itself.
local function lives(id)
  local found = redis.call('HMGET', session, 'state', 'holder')
  return found[1] == LIVE and redis.call('HGET', seat_of, id) and has_lease(found[2])
end

-- A full Redis refuses a script at its first write or not at all. This one takes no room and is let through,
-- so that leases, seats and ends go on; OPEN writes before it, and is refused.
redis.call('ZREM', seats, '')
for _, id in ipairs(redis.call('ZRANGEBYSCORE', seats, '-inf', now_ms)) do leave(id) end
"""

# KEYS 6 model. ARGV replica, "slots address", lease_ms, Model, kept_ms.
ANNOUNCE = (
    _SEATS
    + """
local lease_ms = tonumber(ARGV[3])
local _, address = room(ARGV[1])
if is_alive(ARGV[1]) and address ~= string.match(ARGV[2], ' (.+)$') then return {'replica_taken'} end
redis.call('ZADD', replicas, now_ms + lease_ms, ARGV[1])
redis.call('HSET', details, ARGV[1], ARGV[2])
redis.call('SET', KEYS[6], ARGV[4], 'PX', lease_ms)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', replicas, '-inf', now_ms - 20 * lease_ms)) do
  redis.call('ZREM', replicas, gone)
  redis.call('HDEL', details, gone)
end
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
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

# ARGV id. Places nobody.
FIND = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'record', 'state', 'epoch', 'replica', 'address')
if not found[1] then return {'unknown_session'} end
if found[2] == LIVE and not lives(ARGV[1]) then found[2] = WAITING end
return {'ok', unpack(found)}
"""
)

# ARGV id, lost epoch or 0, replica to do without or '', '1' if that one still plays or '', keep_ms, viewer.
PLACE = (
    _SEATS
    + """
local id, lost, without, is_planned = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local found = redis.call('HMGET', session, 'state', 'epoch', 'replica', 'address', 'viewer')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'session_closed'} end
local is_own = ARGV[6] ~= '' and ARGV[6] == found[5]
if lost ~= '0' and not is_own then
  if is_superseded(lost, found[2]) then return {'superseded'} end
  redis.call('HSET', session, 'epoch', lost)
end
local kept, replica, address = redis.call('HGET', seat_of, id), found[3], found[4]

local function takes(replica)
  return is_alive(replica) and (kept == replica or (room(replica) or 0) > 0)
end

if is_own or lost ~= '0' or not lives(id) then
  -- The replica that it had knows the model's text and picture already, and perhaps its last latents.
  if kept ~= without and takes(kept) then
    replica = kept
  elseif replica == without or not takes(replica) then
    replica, address = roomiest(without)
    if not replica and not is_planned and without ~= '' and takes(without) then replica = without end
    if not replica then return {address} end
  end
  local _, at = room(replica)
  address = at
  sit(id, replica, tonumber(ARGV[5]))
  if not is_planned then
    redis.call('HSET', session, 'state', WAITING, 'replica', replica, 'address', address)
  end
end
local record = redis.call('HMGET', session, 'record', 'state', 'epoch')
return {'ok', record[1], record[2], record[3], replica, address}
"""
)

# KEYS 7 controls. ARGV id, replica, live_ms, kept_ms, the epoch that it must follow or '', viewer. With that
# epoch, a seat that lives goes to the replica where it is kept, which holds it or was chosen while another
# one drains.
CLAIM = (
    _SEATS
    + """
local state, epoch = unpack(redis.call('HMGET', session, 'state', 'epoch'))
if not state then return {'unknown_session'} end
if state == CLOSED then return {'session_closed'} end
if ARGV[5] ~= '' then
  if is_superseded(ARGV[5], epoch) then return {'superseded'} end
  redis.call('HSET', session, 'epoch', ARGV[5])
end
local kept = redis.call('HGET', seat_of, ARGV[1])
if lives(ARGV[1]) and (ARGV[5] == '' or kept ~= ARGV[2]) then return {'seat_taken'} end
local free, address = room(ARGV[2])
if not free then return {'no_engine'} end
if kept ~= ARGV[2] and free < 1 then return {'engine_full'} end
sit(ARGV[1], ARGV[2], tonumber(ARGV[3]))
epoch = redis.call('HINCRBY', session, 'epoch', 1)
redis.call('HSET', session, 'state', LIVE, 'replica', ARGV[2], 'address', address, 'holder', ARGV[2],
  'viewer', ARGV[6])
redis.call('XADD', KEYS[7], redis.call('HGET', session, 'seq') .. '-*', 'epoch', epoch)
redis.call('PEXPIRE', session, ARGV[4])
redis.call('PEXPIRE', KEYS[7], ARGV[4])
return {'ok', unpack(redis.call('HMGET', session, 'record', 'state', 'epoch', 'replica', 'address', 'image',
  'seq'))}
"""
)

# KEYS 7 controls, 8 receipts, 9 snapshot. ARGV id, epoch, live_ms, kept_ms. The seat of a replica that
# announces itself no more lapses, and one that was kept elsewhere meanwhile stays there.
RENEW = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'epoch', 'holder')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'session_closed'} end
if is_superseded(ARGV[2], found[2]) then return {'superseded', found[2]} end
redis.call('HSET', session, 'epoch', ARGV[2])
local kept = redis.call('HGET', seat_of, ARGV[1])
if has_lease(found[3]) and (not kept or kept == found[3]) then
  sit(ARGV[1], found[3], tonumber(ARGV[3]))
  redis.call('HSET', session, 'state', LIVE)
end
for i = 6, 9 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return {'ok'}
"""
)

# ARGV id, epoch, keep_ms. The seat waits for its viewer. An engine that was superseded has none to give up.
RELEASE = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'epoch')
if found[1] == LIVE and found[2] == ARGV[2] then
  local kept = redis.call('HGET', seat_of, ARGV[1])
  if kept then sit(ARGV[1], kept, tonumber(ARGV[3])) end
  redis.call('HSET', session, 'state', WAITING)
end
return {'ok'}
"""
)

# KEYS 7 controls, 8 receipts, 9 snapshot. ARGV id, kept_ms.
CLOSE = (
    _SEATS
    + """
local found = redis.call('HMGET', session, 'state', 'seq')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'ok'} end
leave(ARGV[1])
redis.call('HSET', session, 'state', CLOSED)
redis.call('HDEL', session, 'image')
redis.call('DEL', KEYS[9])
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
if tonumber(found[2]) > tonumber(ARGV[1]) then return {'superseded', found[2]} end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'receipt', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'ok'}
"""
