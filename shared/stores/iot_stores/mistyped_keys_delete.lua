-- Delete keys whose value has the wrong type: another program wrote the value, and the service can't use it.
-- KEYS: the keys. ARGV: the type of each key; none: the key must not exist.
-- Returns the deleted keys.
local reads = {
  hash = {'HGET', ''}, list = {'LLEN'}, set = {'SREM', ''}, stream = {'XLEN'}, string = {'GET'},
  zset = {'ZREM', ''}, none = {'EXISTS'},
}
local deleted = {}
for i, key in ipairs(KEYS) do
  -- TYPE would do, but the writers' user of Redis may not use it.
  local command = reads[ARGV[i]]
  local answer = redis.pcall(command[1], key, unpack(command, 2))
  if type(answer) == 'table' and string.find(answer.err, 'WRONGTYPE', 1, true)
    or ARGV[i] == 'none' and answer == 1 then
    redis.call('DEL', key)
    deleted[#deleted + 1] = key
  end
end
return deleted
