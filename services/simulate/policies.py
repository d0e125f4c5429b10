"""Rules that could place a session, each in the place of `scripts.ROOMIEST`; all else stays as it is."""

from services.sessions import scripts

# In front of each but ours: the live replicas with room but `without`; or what to say where there is none.
_WITH_ROOM = """
local function with_room(without)
  local found, why = {}, 'no_engine'
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, now_ms, '+inf')) do
    local free, address = room(replica)
    if replica ~= without and free then
      why = 'engine_full'
      if free > 0 then found[#found + 1] = {name = replica, free = free, address = address} end
    end
  end
  return found, why
end

local function least(without, weigh)
  local found, why = with_room(without)
  local best, lowest
  for i = 1, #found do
    local weight = weigh(found[i])
    if not lowest or weight < lowest then best, lowest = found[i], weight end
  end
  if not best then return nil, why end
  return best.name, best.address
end
"""

_ROUND_ROBIN = """
local function roomiest(without)
  local found, why = with_room(without)
  table.sort(found, function(one, other) return one.name < other.name end)
  local last, next = redis.call('GET', taken .. ':last') or '', found[1]
  if not next then return nil, why end
  for i = #found, 1, -1 do
    if found[i].name > last then next = found[i] end
  end
  redis.call('SET', taken .. ':last', next.name)
  return next.name, next.address
end
"""

_LEAST_LOADED = """
local function roomiest(without)
  return least(without, function(replica)
    local has = tonumber(redis.call('HGET', taken, replica.name) or '0')
    return has / (has + replica.free)
  end)
end
"""

_BEST_FIT = """
local function roomiest(without)
  return least(without, function(replica) return replica.free end)
end
"""

# `slack` is a hash that engines keep: how long before its next deadline a replica's next step ends, ms, as it
# would be with one session more.
_PLAYOUT_SLACK = """
local function roomiest(without)
  return least(without, function(replica)
    return -tonumber(redis.call('HGET', taken .. ':slack', replica.name) or '0')
  end)
end
"""

OURS = "most room (ours)"
SLACK = "playout slack"
POLICIES = {
    OURS: scripts.ROOMIEST,
    "least loaded": _WITH_ROOM + _LEAST_LOADED,
    "round robin": _WITH_ROOM + _ROUND_ROBIN,
    "best fit": _WITH_ROOM + _BEST_FIT,
    SLACK: _WITH_ROOM + _PLAYOUT_SLACK,
}
