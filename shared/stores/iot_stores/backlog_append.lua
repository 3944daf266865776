-- Append the entries of a group of requests to their streams, and queue the drains that are not queued already. Each
-- request has its own outcome: a refused request appends nothing and does not affect the others.
--
-- KEYS: counters, list of queued jobs, then the streams of the group.
-- ARGV: maximum bytes of the backlog, prefix of the ids of drains, the shard of each stream, then the requests.
--   A request without conditions: number of entries; for each entry: shard, sealed bytes.
--   A request with conditions: -1 - number of entries; number of guards; for each guard: name, limit ('': the
--     name must exist);
--     name to remember the request by ('': none). With a name: seconds to remember it, its answer, counters of
--     remembered requests, their maximum, counter of the client's remembered requests, its maximum, number of
--     other names it may have, those names. Then the entries.
--   An argument in front of a request may name one more field for its entries: its first letter is the name of the
--   field, the rest is the value. `p`: traceparent. `r`: time of receipt of an entry that was in the stream before.
-- Returns {held entries, how often writers requested new sessions, the outcome of each request}. Outcomes:
--   bytes ever added to the shard: the only entry of the request was added
--   {1, bytes ever added to the shard (for each entry)}: the entries were added
--   {0, excess bytes, bytes drained per second}: nothing was added, the backlog is full
--   {2, first answer}: nothing was added, the request is remembered
--   {3, seconds}: nothing was added, a guard is at its limit
--   {4, seconds}: nothing was added, too many requests are remembered
--   {5, seconds}: nothing was added, too many requests of this client are remembered
--   {6}: nothing was added, a counter is damaged (see backlog_recount.lua)
--   {7}: nothing was added, a name that must exist is missing
--   an error: Redis refused a command
-- The numbers are those of append_outcomes.py.

local counters, jobs = KEYS[1], KEYS[2]
local max_bytes, drains = tonumber(ARGV[1]), ARGV[2]
local streams, fields = {}, {'bytes', 'held', 'session_renewals'}
for i = 3, #KEYS do
  streams[ARGV[i]] = KEYS[i]
  fields[i + 1] = 'in:' .. ARGV[i]
end
local known = redis.call('HMGET', counters, unpack(fields))
local size, held, renewals = tonumber(known[1] or '0'), tonumber(known[2] or '0'), tonumber(known[3] or '0')

-- HINCRBY takes integers of 64 bits: every integer of up to 18 characters.
local function is_integer(text)
  return not text or #text <= 18 and string.match(text, '^-?%d+$')
end

local damaged = not (held and renewals and size and is_integer(known[1]))
local ends = {} -- bytes ever added to each shard; nil: the counter is damaged
for i = 3, #KEYS do
  local total = known[i + 1]
  ends[ARGV[i]] = is_integer(total) and tonumber(total or '0') or nil
end

local answers = {held or 0, renewals or 0}
-- Requests that are admitted and not written yet: their number; for each request, the position of its answer,
-- the position of its entries in ARGV, and its number of entries. Then the changed shards, and the bytes to add
-- to each.
local admitted, answer_of, first_of, entries_of = 0, {}, {}, {}
local changed, sums = {}, {}
local extras = {} -- the additional field of a request, by the position of the answer
local rate

-- Admit a request if its entries fit; else return its outcome.
local function admit(number, first, entries)
  local last, added, whole = first + 2 * entries - 2, 0, not damaged
  for i = first, last, 2 do
    added, whole = added + #ARGV[i + 1], whole and ends[ARGV[i]]
  end
  -- A counter with 16 digits is damaged: no backlog has a petabyte.
  if not whole or size + added > max_bytes and known[1] and #known[1] > 15 then
    return {6}
  end
  if size + added > max_bytes then
    rate = rate or tonumber(redis.call('HGET', counters, 'rate') or '0') or 0
    return {0, size + added - max_bytes, rate}
  end
  size = size + added
  for i = first, last, 2 do
    local shard = ARGV[i]
    if not sums[shard] then
      changed[#changed + 1] = shard
    end
    sums[shard] = (sums[shard] or 0) + #ARGV[i + 1]
  end
  admitted = admitted + 1
  answer_of[admitted], first_of[admitted], entries_of[admitted] = number, first, entries
end

-- Add the bytes of the admitted requests to the counters. Return the error if Redis refuses a command.
local function count()
  local all = 0
  for _, shard in ipairs(changed) do
    local total = redis.pcall('HINCRBY', counters, 'in:' .. shard, sums[shard])
    if type(total) == 'table' then
      return total
    end
    all = all + sums[shard]
  end
  local sum = all > 0 and redis.pcall('HINCRBY', counters, 'bytes', all)
  return type(sum) == 'table' and sum
end

-- Add the entry at a position of ARGV. Return the bytes ever added to its shard, or the error if Redis refuses the
-- entry. `failed`: the error of an earlier entry of the request; then only count the bytes, and return this error.
local function add(at, extra, failed)
  local shard, sealed = ARGV[at], ARGV[at + 1]
  local total = ends[shard] + #sealed
  ends[shard] = total
  local id = failed
  if not failed and not extra then
    id = redis.pcall('XADD', streams[shard], '*', 'e', sealed, 't', string.format('%.0f', total))
  elseif not failed then
    local name, value = string.sub(extra, 1, 1), string.sub(extra, 2)
    id = redis.pcall('XADD', streams[shard], '*', 'e', sealed, 't', string.format('%.0f', total), name, value)
  end
  return type(id) == 'table' and id or total
end

-- Return whether an answer is the error for a key that holds a value of another type. Another program wrote it.
local function is_wrong_type(answer)
  return type(answer) == 'table' and answer.err and string.find(answer.err, 'WRONGTYPE', 1, true)
end

-- Return the answer to a command that reads a key; nil if the key holds a value of another type.
local function read(...)
  local answer = redis.pcall(...)
  if is_wrong_type(answer) then
    return nil
  end
  return type(answer) == 'table' and answer.err and redis.call(...) or answer -- the call raises the error
end

-- Queue the drains. Return the error if Redis refuses a command. If the list of jobs holds a value of another
-- type, a writer deletes the list within seconds, and queues the drains.
local function queue()
  -- LPOS is cheap, because the queue is short: it holds each job at most once.
  for _, shard in ipairs(changed) do
    local queued = redis.pcall('LPOS', jobs, drains .. shard)
      or redis.pcall('RPUSH', jobs, drains .. shard)
    if type(queued) == 'table' then
      return not is_wrong_type(queued) and queued
    end
  end
end

-- Write the admitted requests. All counters are changed before the first entry is added, because Redis does not undo a
-- script: the bytes of an added entry must be counted. If Redis then refuses an entry (NOPERM), the shard's next drain or
-- a recount (backlog_recount.lua) subtracts the bytes of this entry again.
local function write()
  local failed = count()
  for k = 1, failed and 0 or admitted do
    local at, extra = first_of[k], extras[answer_of[k]]
    if entries_of[k] == 1 then
      answers[answer_of[k]] = add(at, extra)
    else
      local totals, refused = {1}, nil
      for i = at, at + 2 * entries_of[k] - 2, 2 do
        local total = add(i, extra, refused)
        refused = type(total) == 'table' and total
        totals[#totals + 1] = total
      end
      answers[answer_of[k]] = refused or totals
    end
  end
  failed = failed or queue()
  for k = 1, failed and admitted or 0 do
    answers[answer_of[k]] = failed
  end
  admitted, changed, sums = 0, {}, {}
end

-- Return the value of a client's counter, and whether the counter is damaged. A value that is not a
-- number was planted in Redis: it counts as 0, because refusing would lock the client out.
local guard_counts = {}
local function count_at(name)
  local count = redis.pcall('GET', name)
  if not count then
    return 0, false
  end
  local number = type(count) == 'string' and is_integer(count) and tonumber(count) or -1
  return math.max(0, number), number < 0
end

-- Check the conditions of a request, and admit the request. `at`: the position of its number of guards. Return
-- the outcome if the request is not admitted.
local function check(number, at, entries)
  local guards = tonumber(ARGV[at])
  for i = at + 1, at + 2 * guards, 2 do
    local name, limit = ARGV[i], tonumber(ARGV[i + 1])
    if not limit then
      if not read('GET', name) then
        return {7}
      end
    else
      guard_counts[name] = guard_counts[name] or count_at(name)
      if guard_counts[name] >= limit then
        return {3, redis.call('TTL', name)}
      end
    end
  end
  at = at + 2 * guards + 1
  local request = ARGV[at]
  if request == '' then
    return admit(number, at + 1, entries)
  end
  local seconds, answer, request_counters, max_requests, client_counter, max_of_client, others =
    unpack(ARGV, at + 1, at + 7)
  for i = at + 7, at + 7 + others do
    local name = i == at + 7 and request or ARGV[i]
    local first_answer = read('GET', name)
    if first_answer then
      -- A write without effect, so that WAIT also covers the entries of the first request.
      redis.call('SET', name, first_answer, 'KEEPTTL')
      return {2, first_answer}
    end
  end
  -- Each counter counts the requests of a bucket: a 24th of the time for which requests are remembered. Expired
  -- requests are no longer counted once their counter is deleted.
  local width = math.max(1, math.floor(tonumber(seconds) / 24))
  local bucket = math.floor(tonumber(redis.call('TIME')[1]) / width)
  local remembered = 0
  local counts = read('HGETALL', request_counters)
  if not counts then
    redis.call('SET', request_counters, '', 'PXAT', 1) -- the API's own user of Redis may not use DEL
    counts = {}
  end
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
  local count, planted = count_at(client_counter)
  if count >= tonumber(max_of_client) then
    local left = redis.call('TTL', client_counter)
    if left >= 0 and left <= tonumber(seconds) then
      return {5, left}
    end
    planted = true -- or Redis's clock stepped back: the counter would lock the client out for too long
  end
  if planted then
    redis.call('SET', client_counter, 0, 'EX', seconds)
  end
  local refusal = admit(number, at + 8 + others, entries)
  if refusal then
    return refusal
  end
  -- Written before the next request is checked: it may be a repeat of this one.
  write()
  if type(answers[number]) == 'number' or not answers[number].err then
    redis.call('SET', request, answer, 'EX', seconds)
    redis.call('HINCRBY', request_counters, bucket, 1)
    redis.call('SET', client_counter, 0, 'EX', seconds, 'NX')
    redis.call('INCRBY', client_counter, 1)
  end
end

-- Return the position behind a request with conditions.
local function behind(at, entries)
  at = at + 1 + 2 * tonumber(ARGV[at])
  if ARGV[at] ~= '' then
    at = at + 7 + tonumber(ARGV[at + 7])
  end
  return at + 1 + 2 * entries
end

local at, number = #KEYS + 1, 2
while at <= #ARGV do
  number = number + 1
  local entries = tonumber(ARGV[at])
  if not entries then
    extras[number], at = ARGV[at], at + 1
    entries = tonumber(ARGV[at])
  end
  if entries >= 0 then
    answers[number] = admit(number, at + 1, entries)
    at = at + 1 + 2 * entries
  else
    entries = -1 - entries
    local done, outcome = pcall(check, number, at + 1, entries)
    if not done then -- Redis refused a command of the check
      outcome = type(outcome) == 'table' and {err = outcome.err} or redis.error_reply(outcome)
    end
    answers[number] = outcome or answers[number]
    at = behind(at + 1, entries)
  end
end
write()
return answers
