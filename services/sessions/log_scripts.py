"""The logs of sessions in Redis; see `scripts` for how scripts are written.

Keys of a session:
    log        stream: first the session's record and image, then entries; a mark full ends it
Keys of a tenant:
    log_times  zset  session -> when its log grew last, ms
    log_sizes  hash  session -> size of its log in bytes; total -> of all
"""

from services.sessions import scripts, tenancy

# What Redis spends on an entry beside its content; roughly.
_ENTRY_BYTES = 64
# A log that has grown within this time is of a session that is being played: it makes no room for others.
_PLAYED_MS = 60_000


def keys(session_id: str, tenant: str) -> list[str]:
    """Keys of `APPEND`."""
    of_tenant = [tenancy.tenant_key(tenant, part) for part in ("log_times", "log_sizes")]
    return [*(scripts.session_key(session_id, part) for part in ("session", "log")), *of_tenant]


def log_key_pattern() -> str:
    """The key of a log, with %s for the session."""
    return scripts.session_key("%s", "log")


# KEYS see `keys`. ARGV id, LogEntry, kept_ms, most bytes, key of a log with %s.
# Answers kept or full, then the sessions whose logs were dropped to make room.
APPEND = f"""
local session, log, times, sizes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kept_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local opened = redis.call('HMGET', session, 'record', 'image')
if not opened[1] then return {{'unknown_session'}} end

local function drop(id)
  redis.call('DEL', string.format(ARGV[5], id))
  redis.call('HINCRBY', sizes, 'total', -tonumber(redis.call('HGET', sizes, id) or '0'))
  redis.call('HDEL', sizes, id)
  redis.call('ZREM', times, id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now_ms - kept_ms)) do drop(id) end

local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if newest and newest[2][1] == 'full' then return {{'ok', 'full'}} end
local fields = {{'entry', ARGV[2]}}
if not newest then fields = {{'record', opened[1], 'image', opened[2] or '', 'entry', ARGV[2]}} end
local size = {_ENTRY_BYTES}
for _, field in ipairs(fields) do size = size + #field end

local dropped = {{}}
local function room() return most - tonumber(redis.call('HGET', sizes, 'total') or '0') end
while room() < size do
  local oldest = redis.call('ZRANGEBYSCORE', times, '-inf', now_ms - {_PLAYED_MS}, 'LIMIT', 0, 1)[1]
  if not oldest or oldest == ARGV[1] then break end
  drop(oldest)
  dropped[#dropped + 1] = oldest
end
local outcome = 'kept'
if room() < size then fields, size, outcome = {{'full', ''}}, {_ENTRY_BYTES}, 'full' end
redis.call('XADD', log, '*', unpack(fields))
redis.call('ZADD', times, now_ms, ARGV[1])
redis.call('HINCRBY', sizes, ARGV[1], size)
redis.call('HINCRBY', sizes, 'total', size)
for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], kept_ms) end
return {{'ok', outcome, unpack(dropped)}}
"""

# KEYS log. ARGV the entry after which to read ("-": from the beginning), how many at most.
# Answers the last entry that was read and, for each, its fields as a list.
READ = """
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
if ARGV[1] == '-' and not entries[1] then return {'unknown_session'} end
local found = {'ok', entries[1] and entries[#entries][1] or ''}
for _, entry in ipairs(entries) do found[#found + 1] = entry[2] end
return found
"""
