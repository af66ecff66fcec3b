-- Removes the job ARGV[1], and returns it.
local id = ARGV[1]
local json = redis.call('GET', key('job', id))
if not json then
  return false
end
drop_entry(id)
-- Values may be missing, if Redis evicted the keys or a person removed them.
local state, client = meta(id, 'state'), meta(id, 'client')
local owner, known = meta(id, 'owner'), meta(id, 'known')
if client then
  redis.call('SREM', key('client', client), id)
  if not is_over(state) then
    add_bytes(client, -tonumber(meta(id, 'bytes') or 0))
  end
end
if state then
  redis.call('ZREM', key('state', state), id)
end
if owner then
  redis.call('SREM', key('owner', owner), id)
end
if known then
  redis.call('LREM', key('known', known), 0, id)
end
redis.call('ZREM', P .. 'expiry', id)
redis.call('ZREM', P .. 'callbacks', id)
redis.call('ZREM', P .. 'resting', id)
redis.call('DEL', key('job', id), key('meta', id), key('parts', id), key('result', id))
return json
