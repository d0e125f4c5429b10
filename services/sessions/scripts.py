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
                     state (a SessionState), epoch, seq (of the newest control), prompt (the newest control
                     that carries one: the log may have lost it), replica and address (where its seat is),
                     holder and viewer (of the newest claim), tenant, ended (why), ended_ms;
                     where it was opened with a key: key_id, token (its hash), token_until_ms, opened_ms,
                     metered_epoch and metered_ms (until when its time is counted), latents,
                     heard_seq and heard_ms (of the newest control), notice ("reason ends_ms")
    controls   stream; a control has the id seq-0, marks (epoch, closed: why) follow it as seq-1, seq-2, ...
    receipts   stream of ControlReceipt messages, notices ("reason ends_ms"), and the mark closed: why
    snapshot   the newest SnapshotRequest message
"""

TAG = "{livevideo}"
MODELS = f"{TAG}:models"


def placing_keys(model: str) -> list[str]:
    """Keys 1 to 5 of each script that places."""
    return [f"{TAG}:model:{model}:{part}" for part in ("replicas", "details", "seats", "seat_of", "taken")]


def model_key(model: str) -> str:
    return f"{TAG}:model:{model}:model"


def session_key(session_id: str, part: str) -> str:
    return f"{TAG}:session:{session_id}:{part}"


def model_of(session_id: str) -> str:
    return session_id.rpartition("-")[0]


def keys(session_id: str) -> list[str]:
    """Keys 1 to 9 of each script that places a session."""
    parts = [session_key(session_id, part) for part in ("session", "controls", "receipts", "snapshot")]
    return [*placing_keys(model_of(session_id)), *parts]


# KEYS models. Writes, so that a Redis that only reads says so.
CHECK = """
redis.call('ZREM', KEYS[1], '')
return {'ok'}
"""

# Where a session is placed; a simulation puts other rules here and compares them.
ROOMIEST = """
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
"""

# In front of each script that places. A seat that was not renewed is given up before anything is decided.
SEATS = (
    """
local replicas, details, seats, seat_of, taken, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local WAITING, LIVE, CLOSED = '1', '2', '3'
local DAY_MS = 86400000
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
  for i = 3, 5 do redis.call('PEXPIRE', KEYS[i], DAY_MS) end
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
"""
    + ROOMIEST
    + """
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
)

# Behind it, in each script that ends sessions. KEYS 7 controls, 8 receipts, 9 snapshot.
ENDING = """
local function finish(id, why, kept_ms)
  leave(id)
  redis.call('HSET', session, 'state', CLOSED, 'ended', why, 'ended_ms', now_ms)
  redis.call('HDEL', session, 'image', 'notice')
  redis.call('DEL', KEYS[9])
  redis.call('XADD', KEYS[7], redis.call('HGET', session, 'seq') .. '-*', 'closed', why)
  redis.call('XADD', KEYS[8], '*', 'closed', why)
  for i = 6, 8 do redis.call('PEXPIRE', KEYS[i], kept_ms) end
end
"""

# KEYS 6 model, 7 models. ARGV replica, "slots address", lease_ms, Model, kept_ms, the model's name,
# longest_seat_ms. A clock that was set back would keep the dead alive until it has caught up.
ANNOUNCE = (
    SEATS
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

# KEYS session, receipts. Answers the record, the receipt after which new ones will come, the newest prompt.
ATTACH = """
local found = redis.call('HMGET', KEYS[1], 'state', 'record', 'ended', 'prompt')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed', found[3]} end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {'ok', found[2], newest[1] and newest[1][1] or '0-0', found[4]}
"""

# KEYS session, controls. ARGV seq, control, most, kept_ms, '1' if it carries a prompt. Seqs have 64 bits,
# Lua's numbers 53: text.
PUSH = """
local found = redis.call('HMGET', KEYS[1], 'state', 'seq', 'ended')
if not found[1] then return {'unknown_session'} end
if found[1] == '3' then return {'session_closed', found[3]} end
local seq, last = ARGV[1], found[2]
if #seq < #last or (#seq == #last and seq <= last) then return {'old_seq', last} end
redis.call('HSET', KEYS[1], 'seq', seq)
if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'prompt', ARGV[2]) end
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
