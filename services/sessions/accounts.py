"""What is asked and changed of tenants and their keys, as one Lua script each."""

from services.sessions import tenancy

# In front of each: KEYS 1 tenants, 2 keys, 3 tenant. ARGV 1 the tenant's name.
_ACCOUNT = """
local tenants, keys, tenant, name = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local is_known = redis.call('SISMEMBER', tenants, name) == 1
local is_good = is_known and not redis.call('HGET', tenant, 'revoked_ms')

local function store(key_id, hash, expires_ms)
  redis.call('HSET', keys, key_id, string.format('%s %s %.0f %.0f', name, hash, now_ms, expires_ms))
end

local function each_key(visit)
  local stored = redis.call('HGETALL', keys)
  for i = 1, #stored, 2 do
    local owner, hash, made_ms, expires_ms = string.match(stored[i + 1], '^(%S+) (%S+) (%d+) (%d+)$')
    if owner == name then visit(stored[i], hash, tonumber(made_ms), tonumber(expires_ms)) end
  end
end

local function after(ms)
  return tonumber(ms) > 0 and now_ms + tonumber(ms) or 0
end
"""


def keys(tenant: str) -> list[str]:
    return [tenancy.TENANTS, tenancy.KEYS, tenancy.tenant_key(tenant, "tenant")]


# ARGV 2 key id, 3 its hash, 4 expires_ms, then the quotas: field, value, field, value.
ADD = (
    _ACCOUNT
    + """
if is_known then return {'tenant_exists'} end
redis.call('SADD', tenants, name)
redis.call('HSET', tenant, 'added_ms', now_ms, unpack(ARGV, 5))
store(ARGV[2], ARGV[3], after(ARGV[4]))
return {'ok', tostring(now_ms), tostring(after(ARGV[4]))}
"""
)

# ARGV from 2 on the quotas.
CHANGE = (
    _ACCOUNT
    + """
if not is_known then return {'unknown_tenant'} end
redis.call('HSET', tenant, unpack(ARGV, 2))
return {'ok'}
"""
)

# ARGV 2 key id, 3 its hash, 4 expires_ms, 5 grace_ms, 6 kept_ms. A key that has expired is kept for as long
# as a session that it opened may be played: a key that is not there was revoked.
ROTATE = (
    _ACCOUNT
    + """
if not is_good then return {'unknown_tenant'} end
local end_ms = now_ms + tonumber(ARGV[5])
each_key(function(key_id, hash, made_ms, expires_ms)
  if expires_ms > 0 and expires_ms < now_ms - tonumber(ARGV[6]) then
    redis.call('HDEL', keys, key_id)
  elseif expires_ms == 0 or expires_ms > end_ms then
    redis.call('HSET', keys, key_id, string.format('%s %s %.0f %.0f', name, hash, made_ms, end_ms))
  end
end)
store(ARGV[2], ARGV[3], after(ARGV[4]))
return {'ok', tostring(now_ms), tostring(after(ARGV[4]))}
"""
)

# KEYS 4 open. ARGV 2 key id; empty: all of them. Answers the tenant's sessions.
REVOKE = (
    _ACCOUNT
    + """
if not is_known then return {'unknown_tenant'} end
local ended = 0
each_key(function(key_id)
  if ARGV[2] == '' or ARGV[2] == key_id then ended = ended + redis.call('HDEL', keys, key_id) end
end)
if ARGV[2] ~= '' and ended == 0 then return {'unknown_key'} end
if ARGV[2] == '' and is_good then redis.call('HSET', tenant, 'revoked_ms', now_ms) end
return {'ok', unpack(redis.call('ZRANGE', KEYS[4], 0, -1))}
"""
)

# ARGV 2 key id. Answers how many tenants there are; where the tenant has this key, also its hash, when it
# ends, what time it is, and the tenant's fields and their values.
FIND_KEY = (
    _ACCOUNT
    + """
local stored = redis.call('HGET', keys, ARGV[2]) or ''
local owner, hash, expires_ms = string.match(stored, '^(%S+) (%S+) %d+ (%d+)$')
if owner ~= name then return {'ok', redis.call('SCARD', tenants)} end
return {'ok', redis.call('SCARD', tenants), hash, expires_ms, tostring(now_ms),
  unpack(redis.call('HGETALL', tenant))}
"""
)

# KEYS 4 open. Answers how many sessions it has now, then its fields and their values.
DESCRIBE = (
    _ACCOUNT
    + """
if not is_known then return {'unknown_tenant'} end
return {'ok', redis.call('ZCOUNT', KEYS[4], now_ms, '+inf'), unpack(redis.call('HGETALL', tenant))}
"""
)

# Answers the names of all tenants.
LIST = (
    _ACCOUNT
    + """
return {'ok', unpack(redis.call('SMEMBERS', tenants))}
"""
)

# Answers its keys: id, made_ms, expires_ms, id, ...
LIST_KEYS = (
    _ACCOUNT
    + """
local told = {'ok'}
each_key(function(key_id, hash, made_ms, expires_ms)
  if expires_ms > 0 and expires_ms <= now_ms then return end
  for _, found in ipairs({key_id, tostring(made_ms), tostring(expires_ms)}) do table.insert(told, found) end
end)
return told
"""
)

# KEYS 4 usage. ARGV 2 how many days. Answers day, ms, latents, sessions, day, ...
USAGE = (
    _ACCOUNT
    + """
if not is_known then return {'unknown_tenant'} end
local told, today = {'ok'}, math.floor(now_ms / 86400000)
for day = today - tonumber(ARGV[2]) + 1, today do
  local used = redis.call('HMGET', KEYS[4], day .. ':ms', day .. ':latents', day .. ':sessions')
  if used[1] or used[2] or used[3] then
    for _, found in ipairs({day, used[1] or 0, used[2] or 0, used[3] or 0}) do
      table.insert(told, tonumber(found))
    end
  end
end
return told
"""
)

# KEYS 4 session. Answers the token's hash, how long it is good in ms, tenant, key id, why it ended, notice.
HOLDER = (
    _ACCOUNT
    + """
local found = redis.call('HMGET', KEYS[4], 'token', 'token_until_ms', 'tenant', 'key_id', 'ended', 'notice')
local good_ms = math.max(0, tonumber(found[2] or '0') - now_ms)
return {'ok', found[1] or '', good_ms, found[3] or '', found[4] or '', found[5] or '', found[6] or ''}
"""
)
