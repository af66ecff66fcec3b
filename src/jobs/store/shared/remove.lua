-- Removes the job ARGV[1], and returns it.
local id = ARGV[1]
local json = redis.call('GET', key('job', id))
if not json then
  return false
end
drop_entry(id)
local state = meta(id, 'state')
if not is_over(state) then
  add_bytes(meta(id, 'client'), -tonumber(meta(id, 'bytes')))
end
redis.call('ZREM', key('state', state), id)
redis.call('SREM', key('owner', meta(id, 'owner')), id)
redis.call('SREM', key('client', meta(id, 'client')), id)
local known = meta(id, 'known')
if known then
  redis.call('LREM', key('known', known), 0, id)
end
redis.call('ZREM', P .. 'expiry', id)
redis.call('ZREM', P .. 'callbacks', id)
redis.call('DEL', key('job', id), key('meta', id), key('parts', id), key('result', id))
return json
