-- Load for wrk: wrk … -- LIST THREADS METHOD SIZE ONCE RANDOM HEADER…
-- Paths come from the file LIST, each thread taking its share of the lines: in order, or at random. With ONCE the
-- run ends when the lines do; else it begins again.

local started = 0

function setup(thread)
  thread:set("share", started)
  started = started + 1
end

local ffi = require("ffi")
ffi.cdef("int kill(int pid, int signal); int getpid(void);")

local paths, heads, position, count = {}, {}, 0, 0
local method, body, once, random

function init(args)
  local shares, size = tonumber(args[2]), tonumber(args[4])
  method, once, random = args[3], args[5] == "1", args[6] == "1"
  for n = 7, #args do
    local name, value = args[n]:match("^([^:]+):%s*(.*)$")
    heads[name] = value
  end
  heads["Host"] = wrk.host .. ":" .. wrk.port
  if method == "PUT" then
    body = string.rep("0123456789abcdef", size / 16)
    heads["Content-Length"] = tostring(size)
  end
  local n = 0
  for line in io.lines(args[1]) do
    if n % shares == share then
      paths[#paths + 1] = line
    end
    n = n + 1
  end
  math.randomseed(4711 + share)
end

local ended = false

local function next_path()
  if random then
    return paths[math.random(#paths)]
  end
  position = position + 1
  if position > #paths then
    if once and not ended then
      ended = true
      wrk.thread:stop()
      ffi.C.kill(ffi.C.getpid(), 2)
    end
    position = 1
  end
  return paths[position]
end

function request()
  count = count + 1
  if body and #body > 4194304 and count % 4 == 0 then
    collectgarbage("collect")
  end
  return wrk.format(method, next_path(), heads, body)
end

function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d, "status": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.errors.status
  ))
end
