-- Adds jobs, unless the idempotency key ARGV[1] (may be empty) has some: returns those. ARGV[2...]: for each job its id,
-- JSON, owner, client, size of audio, and time of submission.
ensure_group()
if ARGV[1] ~= '' then
  local known = jobs(redis.call('LRANGE', key('known', ARGV[1]), 0, -1))
  if #known > 0 then
    return known
  end
  redis.call('DEL', key('known', ARGV[1]))
end
for at = 2, #ARGV, 6 do
  local id, json, owner, client, bytes, created = unpack(ARGV, at, at + 5)
  redis.call('SET', key('job', id), json)
  redis.call('HSET', key('meta', id), 'owner', owner, 'client', client, 'bytes', bytes, 'created', created)
  if ARGV[1] ~= '' then
    redis.call('HSET', key('meta', id), 'known', ARGV[1])
    redis.call('RPUSH', key('known', ARGV[1]), id)
  end
  set_state(id, 'queued')
  redis.call('SADD', key('owner', owner), id)
  redis.call('SADD', key('client', client), id)
  redis.call('INCRBY', P .. 'bytes', bytes)
  local entry = redis.call('XADD', STREAM, '*', 'id', id)
  redis.call('HSET', key('meta', id), 'entry', entry)
end
return {}
