-- Take the drains off the queue. KEYS: list of waiting jobs. ARGV: what their ids begin with.
-- Returns their shards, in the order in which they waited.
local prefix, shards = ARGV[1], {}
for _, job in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if string.sub(job, 1, #prefix) == prefix then
    redis.call('LREM', KEYS[1], 1, job)
    shards[#shards + 1] = string.sub(job, #prefix + 1)
  end
end
return shards
