-- Add entries to their streams, and queue the drains that are not queued already.
--
-- KEYS: counters, list of queued jobs, then the stream of each entry.
-- ARGV: maximum bytes of the backlog; number of guards; name to remember the request by ('': none).
--   With a name: seconds to remember it, its answer, counters of remembered requests, their maximum,
--   counter of the client's remembered requests, its maximum, number of other names it may have, those names.
--   For each guard: name, limit. For each entry: shard, job id, sealed bytes.
-- Returns, if the entries were added:
--   {1, held entries, how often writers requested new sessions, bytes ever added to the shard (for each entry)}
-- Returns, if nothing was added:
--   {0, excess bytes, bytes drained per second}: the backlog is full
--   {2, first answer}: the request is remembered
--   {3, seconds}: a guard is at its limit
--   {4, seconds}: too many requests are remembered
--   {5, seconds}: too many requests of this client are remembered
--   {6}: a counter is damaged (see backlog_recount.lua)
-- The numbers are those of append_outcomes.py.

-- Return the value of a client's counter, and whether the counter is damaged. A value that is not a
-- number was planted in Redis: it counts as 0, because refusing would lock the client out.
local function count_at(name)
  local count = redis.pcall('GET', name)
  if not count then
    return 0, false
  end
  if type(count) == 'string' and string.match(count, '^%d+$') then
    return tonumber(count), false
  end
  return 0, true
end

local counters, jobs = KEYS[1], KEYS[2]
local max_bytes, guards, request = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local at = 3
local seconds, answer, request_counters, max_requests, client_counter, max_of_client, others, bucket
if request ~= '' then
  seconds, answer, request_counters, max_requests, client_counter, max_of_client, others = unpack(ARGV, 4, 10)
  at = 10 + others
end
for i = at + 1, at + 2 * guards, 2 do
  if count_at(ARGV[i]) >= tonumber(ARGV[i + 1]) then
    return {3, redis.call('TTL', ARGV[i])}
  end
end
at = at + 2 * guards
if request ~= '' then
  for _, name in ipairs({request, unpack(ARGV, 11, 10 + others)}) do
    local first_answer = redis.call('GET', name)
    if first_answer then
      -- A write without effect: WAIT covers all writes up to this one, so the entries of the first
      -- request too.
      redis.call('SET', name, first_answer, 'KEEPTTL')
      return {2, first_answer}
    end
  end
  -- One counter per 24th of the time for which requests are remembered, instead of a set with every
  -- request: the counts of expired requests leave with their counter.
  local width = math.max(1, math.floor(tonumber(seconds) / 24))
  bucket = math.floor(tonumber(redis.call('TIME')[1]) / width)
  local remembered = 0
  local counts = redis.call('HGETALL', request_counters)
  for i = 1, #counts, 2 do
    local age, count = bucket - (tonumber(counts[i]) or 0), tonumber(counts[i + 1])
    -- A counter of the future was written before Redis's clock stepped back.
    if age > math.ceil(tonumber(seconds) / width) or age < -1 or not count then
      redis.call('HDEL', request_counters, counts[i])
    else
      remembered = remembered + count
    end
  end
  if remembered >= tonumber(max_requests) then
    return {4, width}
  end
  local count, damaged = count_at(client_counter)
  if count >= tonumber(max_of_client) then
    local left = redis.call('TTL', client_counter)
    if left >= 0 and left <= tonumber(seconds) then
      return {5, left}
    end
    damaged = true -- planted, or Redis's clock stepped back: the counter would lock the client out for too long
  end
  if damaged then
    redis.call('SET', client_counter, 0, 'EX', seconds)
  end
end
local added = 0
for i = at + 3, #ARGV, 3 do
  added = added + #ARGV[i]
end
local known = redis.call('HMGET', counters, 'bytes', 'held', 'session_renewals')
local bytes, held, renewals = tonumber(known[1] or '0'), tonumber(known[2] or '0'), tonumber(known[3] or '0')
if not (bytes and held and renewals) then
  return {6}
end
if bytes + added > max_bytes then
  -- With more than 15 digits, the counter is damaged: no backlog has a petabyte.
  if known[1] and #known[1] > 15 then
    return {6}
  end
  local rate = tonumber(redis.call('HGET', counters, 'rate') or '0') or 0
  return {0, bytes + added - max_bytes, rate}
end
local reply = {1, held, renewals}
-- Change all counters before adding the first entry: Redis does not undo a script that fails, and with a
-- damaged counter nothing must be added. If Redis then refuses an entry (NOPERM), the shard's next drain
-- subtracts its bytes again.
for i = at + 1, #ARGV, 3 do
  local total = redis.pcall('HINCRBY', counters, 'in:' .. ARGV[i], #ARGV[i + 2])
  local sum = type(total) == 'number' and redis.pcall('HINCRBY', counters, 'bytes', #ARGV[i + 2])
  local failed = type(total) == 'table' and total or type(sum) == 'table' and sum
  if failed then
    if string.find(failed.err, 'not an integer', 1, true) or string.find(failed.err, 'overflow', 1, true) then
      return {6}
    end
    return failed
  end
  reply[#reply + 1] = total
end
-- LPOS is cheap, because the queue is short: it holds each job at most once.
for i = 3, #KEYS do
  local shard, job, sealed = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 3
  redis.call('XADD', KEYS[i], '*', 'e', sealed, 't', string.format('%.0f', reply[i + 1]))
  if not redis.call('LPOS', jobs, job) then
    redis.call('RPUSH', jobs, job)
  end
end
if request ~= '' then
  redis.call('SET', request, answer, 'EX', seconds)
  redis.call('HINCRBY', request_counters, bucket, 1)
  redis.call('SET', client_counter, 0, 'EX', seconds, 'NX')
  redis.call('INCRBY', client_counter, 1)
end
return reply
