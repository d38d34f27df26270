"""The board as a Lua script for Redis and Valkey: one script, one call for each verb, atomic as all scripts are.

It says the same as :class:`llmbatch.peers.board.Board`, line by line; random stories through both, with one clock,
prove it. Numbers are whole microseconds, which doubles hold exactly. Without a clock argument the server's is used.

Keys, all with one hash tag so that they lie together: ``{llmbatch:NAME}:c:ID`` a circuit (hash), ``:alone`` who is on
its own (hash), ``:seq`` the number of the last change, ``:changed`` circuits by their last change (sorted set),
``:beats`` members by when they were heard of (sorted set), ``:r:RATE`` a rate, ``:$:CAP`` the claims on a cost cap
(hash). All are gone a day after their last use.
"""

from __future__ import annotations

from llmbatch.peers.board import (
    ALONE,
    FORGET,
    GRACE,
    LONGEST_ALONE,
    MOST_DOUBLINGS,
    MOST_NEWS,
    ROTATION,
    SILENT,
)

__all__ = ["SCRIPT"]

_CONSTANTS = f"""
local ALONE, LONGEST_ALONE, ROTATION, SILENT = {ALONE}, {LONGEST_ALONE}, {ROTATION}, {SILENT}
local MOST_DOUBLINGS, MOST_NEWS, FORGET, TTL = {MOST_DOUBLINGS}, {MOST_NEWS}, {FORGET}, {FORGET // 1000}
local GRACE = {GRACE}
"""

_BODY = r"""
local prefix, verb, now = KEYS[1], ARGV[1], tonumber(ARGV[2])
if now == nil then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local K_ALONE, K_SEQ = prefix .. ':alone', prefix .. ':seq'
local K_CHANGED, K_BEATS = prefix .. ':changed', prefix .. ':beats'

local NUMBERS = {'version', 'is_open', 'seq', 'until', 'span', 'opener_until', 'opener_span', 'needs_opinion',
  'failed', 'fence', 'granted', 'lease', 'takeovers', 'alone_for', 'hold', 'hold_span', 'is_named'}
local TEXTS = {'opener', 'prober', 'last', 'alone', 'why'}

local function text_of(number) return string.format('%.0f', number) end
local function key_of(name) return prefix .. ':c:' .. name end
local function keep(key) redis.call('PEXPIRE', key, TTL) end

local function fresh(version)
  local c = {}
  for _, field in ipairs(NUMBERS) do c[field] = 0 end
  for _, field in ipairs(TEXTS) do c[field] = '' end
  c.version = version
  return c
end

local function read(name)
  local fields = {}
  for _, field in ipairs(NUMBERS) do fields[#fields + 1] = field end
  for _, field in ipairs(TEXTS) do fields[#fields + 1] = field end
  local values = redis.call('HMGET', key_of(name), unpack(fields))
  if not values[1] then return nil end
  local c = {}
  for i, field in ipairs(NUMBERS) do c[field] = tonumber(values[i]) or 0 end
  for i, field in ipairs(TEXTS) do c[field] = values[#NUMBERS + i] or '' end
  return c
end

local function save(name, c)
  local pairs_ = {}
  for _, field in ipairs(NUMBERS) do
    pairs_[#pairs_ + 1] = field
    pairs_[#pairs_ + 1] = text_of(c[field])
  end
  for _, field in ipairs(TEXTS) do
    pairs_[#pairs_ + 1] = field
    pairs_[#pairs_ + 1] = c[field]
  end
  redis.call('HSET', key_of(name), unpack(pairs_))
  keep(key_of(name))
end

local function heed_clock(c)
  c['until'] = math.min(c['until'], now + c.span)
  c.opener_until = math.min(c.opener_until, now + c.opener_span)
  c.hold = math.min(c.hold, now + c.hold_span)
  c.granted = math.min(c.granted, now)
end

local function replace(c, version)
  local new = fresh(version)
  if c then new.seq, new.fence, new.hold, new.hold_span = c.seq, c.fence, c.hold, c.hold_span end
  return new
end

local function load(name, known)
  local c = read(name)
  if c == nil or c.version < known then c = replace(c, known) end
  heed_clock(c)
  return c
end

local function recreate(c, version)
  local new = replace(c, version)
  new.is_open, new['until'] = 1, now
  return new
end

local function news(name, c)
  local is_open = c.is_open == 1
  return table.concat({name, text_of(c.seq), text_of(c.version), text_of(c.is_open),
    text_of(is_open and math.max(0, c['until'] - now) or 0), text_of(is_open and c.failed or 0), c.opener, c.alone,
    text_of(c.alone_for), text_of(math.max(0, c.hold - now)), text_of(c.is_named), c.why}, '|')
end

local function tell(name, c)
  local seq = math.max((tonumber(redis.call('GET', K_SEQ)) or 0) + 1, now)
  c.seq = seq
  redis.call('SET', K_SEQ, text_of(seq), 'PX', TTL)
  redis.call('ZADD', K_CHANGED, text_of(seq), name)
  redis.call('ZREMRANGEBYSCORE', K_CHANGED, '-inf', text_of(now - FORGET))
  keep(K_CHANGED)
  redis.call('PUBLISH', prefix .. ':news', news(name, c))
end

local function alone_of(name, owner)
  local text = redis.call('HGET', K_ALONE, name .. ':' .. owner)
  if not text then return nil end
  local until_, span, times = string.match(text, '^(%d+) (%d+) (%d+)$')
  return {tonumber(until_), tonumber(span), tonumber(times)}
end

local function prune_alone()
  if redis.call('HLEN', K_ALONE) < 10000 then return end
  local all = redis.call('HGETALL', K_ALONE)
  for i = 1, #all, 2 do
    local until_ = tonumber(string.match(all[i + 1], '^%d+'))
    if until_ < now then redis.call('HDEL', K_ALONE, all[i]) end
  end
end

local function close(name, c, owner)
  c.alone, c.alone_for = '', 0
  if c.needs_opinion == 1 and owner ~= c.opener then
    local alone = alone_of(name, c.opener)
    local times = alone and alone[3] or 0
    local span = math.min(LONGEST_ALONE, ALONE * 2 ^ math.min(times, 10))
    if c.opener ~= '' then
      prune_alone()
      local text = text_of(now + span) .. ' ' .. text_of(span) .. ' ' .. text_of(times + 1)
      redis.call('HSET', K_ALONE, name .. ':' .. c.opener, text)
      keep(K_ALONE)
      c.alone, c.alone_for = c.opener, span
    end
  end
  c.version = math.max(c.version + 1, now)
  c.is_open, c.why, c.needs_opinion, c.is_named = 0, '', 0, 0
  tell(name, c)
end

local function reply(kind, c, fence, wait) return {kind, c and c.version or 0, fence or 0, wait or 0} end

local verbs = {}

function verbs.open(name, owner, wait, why, known, is_named)
  wait, known, is_named = tonumber(wait), tonumber(known), tonumber(is_named)
  local c = load(name, known)
  if c.is_open == 1 then
    if is_named == 1 and now + wait > c['until'] then
      c['until'], c.span, c.is_named = now + wait, wait, 1
      tell(name, c)
    end
    save(name, c)
    return reply('opened', c, 0, math.max(0, c['until'] - now))
  end
  local alone = alone_of(name, owner)
  if alone and is_named == 0 then
    local left = math.min(alone[1], now + alone[2]) - now
    if left > 0 then
      save(name, c)
      return reply('alone', c, 0, left)
    end
  end
  c.version = math.max(c.version + 1, now)
  c.is_open, c.why, c.is_named = 1, why, is_named
  c.opener, c.opener_until, c.opener_span = owner, now + wait, wait
  c.needs_opinion, c.failed = 1 - is_named, 0
  c.span = is_named == 1 and wait or 0
  c['until'] = now + c.span
  c.prober, c.last, c.alone = '', '', ''
  c.takeovers, c.alone_for = 0, 0
  tell(name, c)
  save(name, c)
  return reply('opened', c, 0, c.span)
end

function verbs.ask(name, owner, lease, known)
  lease, known = tonumber(lease), tonumber(known)
  local c = read(name)
  if c == nil or c.version < known then
    c = recreate(c, known)
    c['until'], c.span = now + GRACE, GRACE
    tell(name, c)
  end
  heed_clock(c)
  if c.is_open == 0 then
    save(name, c)
    return reply('closed', c)
  end
  if c.prober ~= '' and c.prober ~= owner then
    local process = string.match(c.prober, '^[^#]*')
    local heard = math.max(tonumber(redis.call('ZSCORE', K_BEATS, process)) or c.granted, c.granted)
    local left = math.min(c.granted + c.lease, heard + SILENT) - now
    if left > 0 then
      save(name, c)
      return reply('busy', c, 0, left)
    end
    c.takeovers = c.takeovers + 1
  end
  c.prober = ''
  local until_ = c['until']
  if c.needs_opinion == 1 and owner == c.opener then until_ = math.max(until_, c.opener_until) end
  if c.last == owner then until_ = until_ + math.min(ROTATION, c.span) end
  if until_ > now then
    save(name, c)
    return reply('wait', c, 0, until_ - now)
  end
  c.prober, c.granted = owner, now
  c.fence = math.max(c.fence + 1, now)
  c.lease = lease * 2 ^ math.min(c.takeovers, MOST_DOUBLINGS)
  save(name, c)
  return reply('granted', c, c.fence, c.lease)
end

function verbs.tell(name, owner, fence, version, result, wait, is_named)
  fence, version, wait, is_named = tonumber(fence), tonumber(version), tonumber(wait), tonumber(is_named)
  local c = read(name)
  if c == nil or c.version < version then
    if result == 'release' then return reply('stale', c) end
    c = recreate(c, version)
    c.prober, c.fence = owner, fence
  end
  heed_clock(c)
  save(name, c)
  if c.is_open == 0 or c.version ~= version then return reply('stale', c) end
  local disproves = fence == 0 and result == 'success' and owner == c.opener and c.failed == 0
  local is_forgotten = c.prober == '' and fence > c.fence
  if not disproves and not is_forgotten and (fence ~= c.fence or owner ~= c.prober) then return reply('stale', c) end
  c.prober, c.fence = '', math.max(c.fence, fence)
  if result == 'release' then
    if wait > 0 then c['until'], c.span = now + wait, wait end
    tell(name, c)
    save(name, c)
    return reply('released', c)
  end
  c.takeovers = 0
  if result == 'success' then
    close(name, c, owner)
    save(name, c)
    return reply('closed', c)
  end
  if c.needs_opinion == 1 then
    c.needs_opinion = 0
    redis.call('HDEL', K_ALONE, name .. ':' .. c.opener)
  end
  c.failed = c.failed + 1
  c['until'], c.span, c.last, c.is_named = now + wait, wait, owner, is_named
  tell(name, c)
  save(name, c)
  return reply('later', c, 0, wait)
end

function verbs.look(name)
  local c = read(name) or fresh(0)
  if c.is_open == 0 then return reply('closed', c) end
  return reply('opened', c, 0, math.max(0, math.min(c['until'] - now, c.span)))
end

function verbs.hold(name, wait)
  wait = tonumber(wait)
  local c = load(name, 0)
  if now + wait > c.hold then
    c.hold, c.hold_span = now + wait, wait
    tell(name, c)
  end
  save(name, c)
  return reply('held', c, 0, c.hold - now)
end

function verbs.poll(owner, since)
  since = tonumber(since)
  redis.call('ZREMRANGEBYSCORE', K_BEATS, '(' .. text_of(now), '+inf')
  redis.call('ZADD', K_BEATS, text_of(now), owner)
  redis.call('ZREMRANGEBYSCORE', K_BEATS, '-inf', text_of(now - SILENT))
  keep(K_BEATS)
  local seq = tonumber(redis.call('GET', K_SEQ)) or 0
  if since > seq then since = 0 end
  local answer = {0, redis.call('ZCARD', K_BEATS)}
  if since == seq then
    answer[1] = seq
    return answer
  end
  local found = redis.call('ZRANGEBYSCORE', K_CHANGED, '(' .. text_of(since), '+inf', 'LIMIT', 0, MOST_NEWS)
  local last = seq
  for _, name in ipairs(found) do
    local c = read(name)
    if c then
      heed_clock(c)
      answer[#answer + 1] = news(name, c)
      last = c.seq
    end
  end
  answer[1] = last
  return answer
end

function verbs.leave(owner)
  return {redis.call('ZREM', K_BEATS, owner)}
end

function verbs.book(name, cost, burst)
  cost, burst = tonumber(cost), tonumber(burst)
  local key = prefix .. ':r:' .. name
  local latest = tonumber(redis.call('GET', key)) or 0
  local at = math.max(math.min(latest, now + FORGET), now - burst)
  redis.call('SET', key, text_of(at + cost), 'PX', TTL)
  return {math.max(0, at - now)}
end

function verbs.claim(name, part, amount, limit)
  amount, limit = tonumber(amount), tonumber(limit)
  local key = prefix .. ':$:' .. name
  local held = tonumber(redis.call('HGET', key, part)) or 0
  local others = -held
  for _, value in ipairs(redis.call('HVALS', key)) do others = others + tonumber(value) end
  local got = amount
  if amount > held then got = math.max(held, math.min(amount, limit - others)) end
  redis.call('HSET', key, part, text_of(got))
  keep(key)
  return {got}
end

return verbs[verb](unpack(ARGV, 3))
"""

SCRIPT = _CONSTANTS + _BODY
"""Text of the script. ``KEYS[1]``: the prefix of all keys. ``ARGV``: verb, clock (empty: the server's), arguments."""
