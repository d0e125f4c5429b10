"""The queue for seats: tenants take turns, by their priority, and nobody passes those who wait."""

from services.sessions import scripts
from services.sessions.tenancy import TENANCY

# Behind TENANCY. Who has not been heard of no longer waits.
QUEUE = """
local function free_seats()
  local free = 0
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, now_ms, '+inf')) do
    free = free + math.max(0, room(replica) or 0)
  end
  return free
end

local function quit(id)
  redis.call('ZREM', queue, id)
  redis.call('HDEL', waiting, id)
  redis.call('ZREM', alive, id)
end

local function places_of(name)
  local owners, count = redis.call('HVALS', waiting), 0
  for i = 1, #owners do
    if owners[i] == name then count = count + 1 end
  end
  return count
end

-- Each of a tenant's has its turn 1 / priority after the one before; the earliest turn is next.
local function enqueue(id, name, priority)
  if redis.call('ZCARD', queue) == 0 then redis.call('HDEL', pace, 'virtual', 'last_ms') end
  local turn, others = number(pace, 'virtual'), redis.call('HGETALL', waiting)
  for i = 1, #others, 2 do
    if others[i + 1] == name then turn = math.max(turn, tonumber(redis.call('ZSCORE', queue, others[i]))) end
  end
  redis.call('ZADD', queue, turn + 1 / priority, id)
  redis.call('HSET', waiting, id, name)
end

local function expected_ms(position)
  local mean_ms = number(pace, 'mean_ms')
  if mean_ms == 0 then return 0 end
  local since_ms = redis.call('HGET', pace, 'last_ms') or now_ms
  return math.max(1, math.floor(mean_ms * position - (now_ms - tonumber(since_ms))))
end

local function seated(id)
  local turn = redis.call('ZSCORE', queue, id)
  if not turn then return end
  quit(id)
  redis.call('HSET', pace, 'virtual', math.max(number(pace, 'virtual'), tonumber(turn)))
  local since_ms, mean_ms = redis.call('HGET', pace, 'last_ms'), number(pace, 'mean_ms')
  if not since_ms then return end
  local took_ms = now_ms - tonumber(since_ms)
  if mean_ms > 0 then took_ms = 0.8 * mean_ms + 0.2 * took_ms end
  redis.call('HSET', pace, 'last_ms', now_ms, 'mean_ms', math.max(1, math.floor(took_ms)))
end

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now_ms)) do quit(gone) end
"""

# ARGV id, record, image, keep_ms, kept_ms, tenant, key id, the token's hash, how long it is good in ms.
ADMIT = (
    """
redis.call('HSET', KEYS[6], 'record', ARGV[2], 'image', ARGV[3])
"""
    + scripts.SEATS
    + TENANCY
    + QUEUE
    + """
local id, name, key_id = ARGV[1], ARGV[6], ARGV[7]
local function refused(with)
  redis.call('DEL', session)
  return with
end
if not is_let_in(key_id) then return refused({'unauthenticated'}) end
local too_much = key_id ~= '' and excess(id, name)
if too_much then return refused(too_much) end
local ahead = redis.call('ZRANK', queue, id) or redis.call('ZCARD', queue)
local replica, address = roomiest()
if not replica then return refused({address, ahead + 1, expected_ms(ahead + 1)}) end
if free_seats() <= ahead then return refused({'engine_full', ahead + 1, expected_ms(ahead + 1)}) end
sit(id, replica, tonumber(ARGV[4]))
redis.call('HSET', session, 'state', WAITING, 'epoch', 0, 'seq', '0', 'replica', replica, 'address', address,
  'tenant', name)
if key_id ~= '' then
  redis.call('HSET', session, 'key_id', key_id, 'opened_ms', now_ms, 'token', ARGV[8],
    'token_until_ms', now_ms + tonumber(ARGV[9]))
  count(id, tonumber(ARGV[4]))
  use('sessions', 1)
end
seated(id)
redis.call('PEXPIRE', session, ARGV[5])
return {'ok', replica, address}
"""
)

# ARGV id, tenant, key id, alive_ms, most who may wait, most of one tenant. Answers the place in the queue, or
# 0: open it now.
# Who finds no seat gives notice to the least of those who play with a lower priority, and so comes to the
# front.
WAIT = (
    scripts.SEATS
    + TENANCY
    + QUEUE
    + """
local id, name, key_id = ARGV[1], ARGV[2], ARGV[3]
if not is_let_in(key_id) then return {'unauthenticated'} end
local too_much = key_id ~= '' and excess(id, name)
if too_much then
  quit(id)
  return too_much
end
local priority = key_id ~= '' and number(tenant, 'priority') or 5
if not redis.call('ZSCORE', queue, id) then
  local waits = redis.call('ZCARD', queue)
  local is_too_many = key_id ~= '' and places_of(name) >= tonumber(ARGV[6])
  if is_too_many or waits >= tonumber(ARGV[5]) then
    return {'queue_full', waits + 1, expected_ms(waits + 1)}
  end
  enqueue(id, name, priority)
end
redis.call('ZADD', alive, now_ms + tonumber(ARGV[4]), id)
for _, kept in ipairs({queue, waiting, alive, pace}) do redis.call('PEXPIRE', kept, DAY_MS) end

local function has_given_notice()
  local told = redis.call('HVALS', notices)
  for i = 1, #told do
    if string.match(told[i], '^%S+') == id then return true end
  end
end

local function give_notice()
  local lower = string.format('(%.0f', (priority - 1) * RANK)
  for _, victim in ipairs(redis.call('ZRANGEBYSCORE', ranked, '-inf', lower)) do
    if not redis.call('HGET', seat_of, victim) then
      redis.call('ZREM', ranked, victim)
    elseif redis.call('HEXISTS', notices, victim) == 0 then
      redis.call('HSET', notices, victim, id)
      redis.call('PEXPIRE', notices, DAY_MS)
      redis.call('ZADD', queue, now_ms - RANK, id)
      return
    end
  end
end

local free = free_seats()
if free > redis.call('ZRANK', queue, id) then return {'ok', 0, 0} end
if key_id ~= '' and not has_given_notice() then give_notice() end
redis.call('HSETNX', pace, 'last_ms', now_ms)
local position = redis.call('ZRANK', queue, id) + 1
return {'ok', position, expected_ms(position)}
"""
)

# ARGV id. Who has gone no longer waits.
QUIT = (
    scripts.SEATS
    + TENANCY
    + QUEUE
    + """
quit(ARGV[1])
return {'ok'}
"""
)
