-- Adds jobs of the client ARGV[2], unless the idempotency key ARGV[1] (may be empty) has some, or they exceed a limit.
-- ARGV[3...6]: most jobs, bytes of audio, jobs of the client, bytes of its audio. ARGV[7...]: for each job its id, JSON,
-- owner, size of audio, and time of submission. Returns 'known' and the jobs of the key, 'exceeded' and the counts, or
-- nothing.
ensure_group()
local known, client = ARGV[1], ARGV[2]
if known ~= '' then
  local found = jobs(redis.call('LRANGE', key('known', known), 0, -1))
  if #found > 0 then
    table.insert(found, 1, 'known')
    return found
  end
  redis.call('DEL', key('known', known))
end
local new, new_bytes = (#ARGV - 6) / 5, 0
for at = 7, #ARGV, 5 do
  new_bytes = new_bytes + tonumber(ARGV[at + 3])
end
local now = counts(client)
local kept = now[1] + now[2] + now[3] + now[4]
if kept + new > tonumber(ARGV[3]) or now[6] + new_bytes > tonumber(ARGV[4])
  or now[5] + new > tonumber(ARGV[5]) or now[7] + new_bytes > tonumber(ARGV[6]) then
  for at, count in ipairs(now) do
    now[at] = string.format('%.0f', count)
  end
  table.insert(now, 1, 'exceeded')
  return now
end
for at = 7, #ARGV, 5 do
  local id, json, owner, bytes, created = unpack(ARGV, at, at + 4)
  redis.call('SET', key('job', id), json)
  redis.call('HSET', key('meta', id), 'owner', owner, 'client', client, 'bytes', bytes, 'created', created)
  if known ~= '' then
    redis.call('HSET', key('meta', id), 'known', known)
    redis.call('RPUSH', key('known', known), id)
  end
  set_state(id, 'queued')
  redis.call('SADD', key('owner', owner), id)
  redis.call('SADD', key('client', client), id)
  add_bytes(client, bytes)
  local entry = redis.call('XADD', STREAM, '*', 'id', id)
  redis.call('HSET', key('meta', id), 'entry', entry)
end
return {}
