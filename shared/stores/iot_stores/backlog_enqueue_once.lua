-- Queue jobs that don't wait already. KEYS: list of waiting jobs. ARGV: job ids.
local queued = 0
for _, job in ipairs(ARGV) do
  if not redis.call('LPOS', KEYS[1], job) then
    redis.call('RPUSH', KEYS[1], job)
    queued = queued + 1
  end
end
return queued
