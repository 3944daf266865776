-- Queue the jobs that are not queued already.
-- KEYS: list of queued jobs. ARGV: job ids.
-- Returns the number of jobs that were added.
local queued = 0
for _, job in ipairs(ARGV) do
  if not redis.call('LPOS', KEYS[1], job) then
    redis.call('RPUSH', KEYS[1], job)
    queued = queued + 1
  end
end
return queued
