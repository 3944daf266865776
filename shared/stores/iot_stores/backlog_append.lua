-- Add entries to their streams and queue the drains that don't wait already.
-- KEYS: counters, list of waiting jobs, a stream an entry.
-- ARGV: most bytes the backlog may hold, then shard, job id, sealed bytes an entry.
-- Returns 1, or 0 when the backlog is full and nothing was added.
local counters, jobs = KEYS[1], KEYS[2]
local added = 0
for i = 3, #KEYS do
  added = added + #ARGV[3 * i - 5]
end
local held = tonumber(redis.call('HGET', counters, 'bytes') or '0')
if held + added > tonumber(ARGV[1]) then
  return 0
end
for i = 3, #KEYS do
  local shard, job, sealed = ARGV[3 * i - 7], ARGV[3 * i - 6], ARGV[3 * i - 5]
  local total = redis.call('HINCRBY', counters, 'in:' .. shard, #sealed)
  redis.call('XADD', KEYS[i], '*', 'e', sealed, 't', string.format('%.0f', total))
  if not redis.call('LPOS', jobs, job) then
    redis.call('RPUSH', jobs, job)
  end
end
redis.call('HINCRBY', counters, 'bytes', added)
return 1
