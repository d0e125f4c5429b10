"""Where a session sits: how it is found, placed, claimed, kept and left, as one Lua script each.

KEYS of each are those of `scripts.keys`.
"""

from services.sessions.scripts import SEATS

# ARGV id. Places nobody.
FIND = (
    SEATS
    + """
local found = redis.call('HMGET', session, 'record', 'state', 'epoch', 'replica', 'address', 'seq')
if not found[1] then return {'unknown_session'} end
if found[2] == LIVE and not lives(ARGV[1]) then found[2] = WAITING end
return {'ok', unpack(found)}
"""
)

# ARGV id, lost epoch or 0, replica to do without or '', '1' if that one still plays or '', keep_ms, viewer.
PLACE = (
    SEATS
    + """
local id, lost, without, is_planned = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local found = redis.call('HMGET', session, 'state', 'epoch', 'replica', 'address', 'ended', 'viewer')
if not found[1] then return {'unknown_session'} end
if found[1] == CLOSED then return {'session_closed', found[5]} end
local is_own = ARGV[6] ~= '' and ARGV[6] == found[6]
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
# epoch, a seat that lives goes to the replica where it is kept: it holds it already, or was chosen while
# another one drains.
CLAIM = (
    SEATS
    + """
local state, epoch = unpack(redis.call('HMGET', session, 'state', 'epoch'))
if not state then return {'unknown_session'} end
if state == CLOSED then return {'session_closed', redis.call('HGET', session, 'ended')} end
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
    SEATS
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
    SEATS
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
