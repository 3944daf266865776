-- A flood: sends requests of one kind with passwords that no vault has, as fast as they are answered.
-- Arguments: kind (reads, puts or many), address of the client.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  kind = args[1]
  sent = 0
  headers = {["Content-Type"] = "application/json", ["X-Forwarded-For"] = args[2]}
  prefix = string.format("flood %d %d", os.time(), number)
  rows = kind == "many" and 1000 or 1
end

function request()
  sent = sent + 1
  if kind == "reads" then
    local body = string.format('{"data":{"db_password":"%s %d"}}', prefix, sent)
    return wrk.format("POST", "/api/iot", headers, body)
  end
  local each = {}
  for row = 1, rows do
    each[row] = string.format('{"data":{"db_password":"%s %d %d"}}', prefix, sent, row)
  end
  return wrk.format("PUT", "/api/iot", headers, "[" .. table.concat(each, ",") .. "]")
end

function done(summary)
  io.write(string.format('\nresult {"requests": %d, "refused": %d}\n', summary.requests, summary.errors.status))
end
