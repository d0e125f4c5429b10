-- The commands of Redis that the scripts of services/sessions use, over plain tables, at a time that is told.
-- Answers are what a script gets from a real one: false for what is not there, text for what is kept.
-- A stream keeps only its newest id, since nobody here reads it.


local kept, ends_ms, now_ms = {}, {}, 0
local floor, format, insert, remove, huge = math.floor, string.format, table.insert, table.remove, math.huge

local function text(value)
  if type(value) == 'number' then return format('%.17g', value) end
  return value
end

local function forget(key)
  kept[key], ends_ms[key] = nil, nil
end

local function found(key)
  local end_ms = ends_ms[key]
  if end_ms and end_ms <= now_ms then forget(key) end
  return kept[key]
end

local function hash(key)
  local value = found(key)
  if not value then
    value = {of = {}, count = 0}
    kept[key] = value
  end
  return value
end

-- Members in the order of their scores, then of their names.
local function zset(key)
  local value = found(key)
  if not value then
    value = {members = {}, scores = {}, of = {}, count = 0}
    kept[key] = value
  end
  return value
end

-- The first place whose score and name are not below these.
local function place(value, score, member)
  local members, scores, low, high = value.members, value.scores, 1, value.count + 1
  while low < high do
    local middle = floor((low + high) / 2)
    local other = scores[middle]
    if other < score or (other == score and members[middle] < member) then low = middle + 1 else high = middle end
  end
  return low
end

local function drop(value, member)
  local at = place(value, value.of[member], member)
  remove(value.members, at)
  remove(value.scores, at)
  value.of[member], value.count = nil, value.count - 1
end

-- Places from the first to the last score; "(5" is above 5, or below it.
local function bounds(value, from, to)
  local function edge(given, is_last)
    given = text(given)
    if given == '-inf' then return 1 end
    if given == '+inf' then return value.count + 1 end
    local is_open = given:sub(1, 1) == '('
    local score = tonumber(is_open and given:sub(2) or given)
    local at = place(value, score, '')
    if is_open ~= is_last then
      while at <= value.count and value.scores[at] == score do at = at + 1 end
    end
    return at
  end
  return edge(from, false), edge(to, true) - 1
end

local function swept(key, value)
  if value.count == 0 then forget(key) end
end

local commands = {}

function commands.TIME()
  return {format('%.0f', floor(now_ms / 1000)), format('%.0f', now_ms % 1000 * 1000)}
end

function commands.HGET(key, field)
  local value = found(key)
  return value and value.of[text(field)] or false
end

function commands.HMGET(key, ...)
  local value, answer = found(key), {...}
  for i = 1, #answer do answer[i] = value and value.of[answer[i]] or false end
  return answer
end

function commands.HSET(key, ...)
  local value, given, made = hash(key), {...}, 0
  for i = 1, #given, 2 do
    local field = text(given[i])
    if value.of[field] == nil then made = made + 1 end
    value.of[field] = text(given[i + 1])
  end
  value.count = value.count + made
  return made
end

function commands.HSETNX(key, field, given)
  if hash(key).of[field] ~= nil then return 0 end
  return commands.HSET(key, field, given)
end

function commands.HDEL(key, ...)
  local value, gone = found(key), 0
  if not value then return 0 end
  for _, field in ipairs({...}) do
    if value.of[field] ~= nil then
      value.of[field], gone = nil, gone + 1
    end
  end
  value.count = value.count - gone
  swept(key, value)
  return gone
end

function commands.HINCRBY(key, field, by)
  local sum = tonumber(hash(key).of[field] or 0) + tonumber(by)
  commands.HSET(key, field, sum)
  return sum
end

function commands.HEXISTS(key, field)
  local value = found(key)
  return value and value.of[field] ~= nil and 1 or 0
end

function commands.HLEN(key)
  local value = found(key)
  return value and value.count or 0
end

function commands.HGETALL(key)
  local value, answer = found(key), {}
  for field, each in pairs(value and value.of or answer) do
    answer[#answer + 1] = field
    answer[#answer + 1] = each
  end
  return answer
end

function commands.HVALS(key)
  local value, answer = found(key), {}
  for _, each in pairs(value and value.of or answer) do answer[#answer + 1] = each end
  return answer
end

function commands.ZADD(key, score, member)
  local value = zset(key)
  score, member = tonumber(score), text(member)
  local before = value.of[member]
  if before == score then return 0 end
  if before then drop(value, member) end
  local at = place(value, score, member)
  insert(value.members, at, member)
  insert(value.scores, at, score)
  value.of[member], value.count = score, value.count + 1
  return before and 0 or 1
end

function commands.ZREM(key, member)
  local value = found(key)
  if not value or not value.of[member] then return 0 end
  drop(value, member)
  swept(key, value)
  return 1
end

function commands.ZSCORE(key, member)
  local value = found(key)
  local score = value and value.of[member]
  return score and text(score) or false
end

function commands.ZCARD(key)
  local value = found(key)
  return value and value.count or 0
end

function commands.ZRANK(key, member)
  local value = found(key)
  local score = value and value.of[member]
  return score and place(value, score, member) - 1 or false
end

function commands.ZRANGE(key, first, last)
  local value, answer = found(key), {}
  if not value then return answer end
  last = tonumber(last)
  if last < 0 then last = value.count + last end
  for i = tonumber(first) + 1, math.min(last + 1, value.count) do answer[#answer + 1] = value.members[i] end
  return answer
end

function commands.ZRANGEBYSCORE(key, from, to)
  local value, answer = found(key), {}
  if not value then return answer end
  local first, last = bounds(value, from, to)
  for i = first, last do answer[i - first + 1] = value.members[i] end
  return answer
end

function commands.ZREMRANGEBYSCORE(key, from, to)
  local gone = commands.ZRANGEBYSCORE(key, from, to)
  for _, member in ipairs(gone) do commands.ZREM(key, member) end
  return #gone
end

function commands.SADD(key, member) return commands.HSET(key, member, '') end

commands.SCARD, commands.SISMEMBER = commands.HLEN, commands.HEXISTS

function commands.GET(key)
  local value = found(key)
  return value and value.text or false
end

function commands.SET(key, value, unit, ms)
  kept[key], ends_ms[key] = {text = value}, nil
  if unit == 'PX' then ends_ms[key] = now_ms + tonumber(ms) end
  return 'OK'
end

function commands.DEL(key)
  local is_there = found(key) ~= nil
  forget(key)
  return is_there and 1 or 0
end

function commands.PEXPIRE(key, ms)
  if not found(key) then return 0 end
  ends_ms[key] = now_ms + tonumber(ms)
  return 1
end

function commands.PTTL(key)
  if not found(key) then return -2 end
  return ends_ms[key] and ends_ms[key] - now_ms or -1
end

function commands.XADD(key, ...)
  local value, given = hash(key), {...}
  local id = given[1] == 'MAXLEN' and given[4] or given[1]
  local part = id == '*' and format('%.0f', now_ms) or string.match(id, '^(%d+)%-')
  if id == '*' or string.sub(id, -1) == '*' then
    local last = value.part == part and value.number or -1
    if last < 0 and part == '0' then last = 0 end -- 0-0 is the id of nothing
    id, value.number = part .. '-' .. format('%d', last + 1), last + 1
  end
  value.part, value.count = part, value.count + 1
  return id
end

redis = {
  call = function(name, ...)
    local command = commands[name]
    if not command then error('redis.lua does not know ' .. name .. '; write it there') end
    return command(...)
  end,
}

-- A pure function, asked the same again and again: "10 engine-7:1" holds 10 slots, whoever asks.
local matched, matched_count, match = {}, 0, string.match
function string.match(subject, pattern, ...)
  if select('#', ...) > 0 then return match(subject, pattern, ...) end
  local of = matched[pattern]
  if not of then
    of = {}
    matched[pattern] = of
  end
  local captures = of[subject]
  if not captures then
    if matched_count > 50000 then
      matched, matched_count, of = {}, 0, {}
      matched[pattern] = of
    end
    captures = {match(subject, pattern)}
    of[subject], matched_count = captures, matched_count + 1
  end
  return captures[1], captures[2], captures[3], captures[4]
end

local function listed(...)
  return {...}
end

return {
  -- A script, ready to be run.
  compiled = function(script)
    return assert(loadstring('return function(KEYS, ARGV) ' .. script .. '\nend'))()
  end,
  -- What a script answers to so many keys, then arguments. As Redis does it, a nil ends the answer.
  run = function(script, at_ms, count, ...)
    now_ms = at_ms
    local keys, arguments, given = {}, {}, listed(...)
    for i = 1, count do keys[i] = given[i] end
    for i = count + 1, #given do arguments[i - count] = given[i] end
    return unpack(script(keys, arguments))
  end,
  -- What one command answers.
  ask = function(at_ms, name, ...)
    now_ms = at_ms
    local answer = redis.call(name, ...)
    if type(answer) == 'table' then return unpack(answer) end
    return answer
  end,
  -- Forgets what has ended, which nobody may ever ask for again.
  sweep = function(at_ms)
    now_ms = at_ms
    local gone = {}
    for key, end_ms in pairs(ends_ms) do
      if end_ms <= at_ms then gone[#gone + 1] = key end
    end
    for _, key in ipairs(gone) do forget(key) end
  end,
}
