-- Add entries to their streams and queue the drains that don't wait already.
-- KEYS: counters, list of waiting jobs, a stream an entry.
-- ARGV: most bytes the backlog may hold; name to remember the request by ('' for none), for how
-- many seconds, and its answer; then shard, job id, sealed bytes an entry.
-- Returns {1, bytes ever added to the shard, ...} an entry when added, {2, answer} when the request is remembered, and {0, excess bytes, bytes
-- drained a second} when the backlog is full; nothing is added then.
local counters, jobs = KEYS[1], KEYS[2]
local remember = ARGV[2]
if remember ~= '' then
  local answer = redis.call('GET', remember)
  if answer then
    -- A write, so that a WAIT behind it speaks of the first request's entries too.
    redis.call('SET', remember, answer, 'KEEPTTL')
    return {2, answer}
  end
end
local added = 0
for i = 3, #KEYS do
  added = added + #ARGV[3 * i - 2]
end
local held = tonumber(redis.call('HGET', counters, 'bytes') or '0')
local limit = tonumber(ARGV[1])
if held + added > limit then
  local rate = tonumber(redis.call('HGET', counters, 'rate') or '0')
  return {0, held + added - limit, rate}
end
local reply = {1}
for i = 3, #KEYS do
  local shard, job, sealed = ARGV[3 * i - 4], ARGV[3 * i - 3], ARGV[3 * i - 2]
  local total = redis.call('HINCRBY', counters, 'in:' .. shard, #sealed)
  reply[#reply + 1] = total
  redis.call('XADD', KEYS[i], '*', 'e', sealed, 't', string.format('%.0f', total))
  if not redis.call('LPOS', jobs, job) then
    redis.call('RPUSH', jobs, job)
  end
end
redis.call('HINCRBY', counters, 'bytes', added)
if remember ~= '' then
  redis.call('SET', remember, ARGV[4], 'EX', ARGV[3])
end
return reply
