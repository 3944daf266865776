-- Take all drains off the job queue.
-- KEYS: list of queued jobs. ARGV: prefix of the ids of drains.
-- Returns the shards of the drains, in the order of the queue.
local prefix, shards = ARGV[1], {}
for _, job in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if string.sub(job, 1, #prefix) == prefix then
    redis.call('LREM', KEYS[1], 1, job)
    shards[#shards + 1] = string.sub(job, #prefix + 1)
  end
end
return shards
