-- Add a compaction order unless too many wait, and queue the compaction job unless it is queued already.
-- KEYS: list of orders, list of queued jobs. ARGV: sealed order, maximum number of orders, job id.
-- Returns 1 if the order was added, else 0.
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('RPUSH', KEYS[1], ARGV[1])
if not redis.call('LPOS', KEYS[2], ARGV[3]) then
  redis.call('RPUSH', KEYS[2], ARGV[3])
end
return 1
