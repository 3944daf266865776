-- Add a compaction order unless enough of them wait, and queue the job unless it waits already.
-- KEYS: list of orders, list of waiting jobs. ARGV: sealed order, most orders, job id.
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('RPUSH', KEYS[1], ARGV[1])
if not redis.call('LPOS', KEYS[2], ARGV[3]) then
  redis.call('RPUSH', KEYS[2], ARGV[3])
end
return 1
