-- Changes a job that the consumer ARGV[1] has. ARGV[2...]: id, JSON, state, result, time of expiry, time of the callback
-- (each may be empty), and newly finished parts. Returns 1 if the consumer has the job, or had ended it: the answer to an
-- earlier call may have been lost.
local consumer, id, json, state, result, expires, callback = unpack(ARGV, 1, 7)
if not has(consumer, id) then
  return (is_over(state) and meta(id, 'ended_by') == consumer) and 1 or 0
end
redis.call('SET', key('job', id), json)
for at = 8, #ARGV do
  redis.call('RPUSH', key('parts', id), ARGV[at])
end
set_state(id, state)
if is_over(state) then
  if result ~= '' then
    redis.call('SET', key('result', id), result)
  end
  redis.call('DEL', key('parts', id))
  add_bytes(meta(id, 'client'), -tonumber(meta(id, 'bytes')))
  redis.call('HSET', key('meta', id), 'ended_by', consumer)
  redis.call('ZADD', P .. 'expiry', expires, id)
  if callback ~= '' then
    redis.call('ZADD', P .. 'callbacks', callback, id)
  end
  drop_entry(id)
elseif state == 'queued' then
  -- Any node may take it at once.
  redis.call('XCLAIM', STREAM, GROUP, consumer, 0, meta(id, 'entry'), 'IDLE', 86400000, 'JUSTID')
else
  redis.call('XCLAIM', STREAM, GROUP, consumer, 0, meta(id, 'entry'), 'JUSTID')
end
return 1
