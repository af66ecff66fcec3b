-- The beginning of every script: names of keys, and what several scripts do.
--
-- job:<id>     the job as JSON          state:<state>  ids of jobs by time of submission
-- meta:<id>    fields that scripts use  owner:<owner>  ids of an owner's jobs
-- parts:<id>   finished parts           client:<name>  ids of a client's jobs
-- result:<id>  the result               known:<key>    ids of the jobs of an idempotency key
-- stream       ids of open jobs         expiry, callbacks, resting: ids by time
-- bytes        bytes of open jobs' audio, of all clients; bytes:<name>: of one
local P = '{stt:jobs}:'
local STREAM = KEYS[1]
local GROUP = 'nodes'

local function key(kind, name)
  return P .. kind .. ':' .. name
end

-- The group is gone if Redis lost its data. An error means that it is there.
local function ensure_group()
  redis.pcall('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
end

local function meta(id, field)
  return redis.call('HGET', key('meta', id), field)
end

-- The time of Redis, in Unix seconds.
local function time()
  local now = redis.call('TIME')
  return tonumber(now[1]) + tonumber(now[2]) / 1e6
end

local function is_over(state)
  return state == 'done' or state == 'failed'
end

local function set_state(id, state)
  local before = meta(id, 'state')
  if before == state then
    return
  end
  if before then
    redis.call('ZREM', key('state', before), id)
  end
  redis.call('ZADD', key('state', state), meta(id, 'created'), id)
  redis.call('HSET', key('meta', id), 'state', state)
end

-- Whether a consumer has the stream's entry of a job.
local function has(consumer, id)
  local entry = meta(id, 'entry')
  if not entry then
    return false
  end
  ensure_group()
  local pending = redis.call('XPENDING', STREAM, GROUP, entry, entry, 1)
  return pending[1] ~= nil and pending[1][2] == consumer
end

-- Takes a job's entry out of the stream.
local function drop_entry(id)
  local entry = meta(id, 'entry')
  if entry then
    ensure_group()
    redis.call('XACK', STREAM, GROUP, entry)
    redis.call('XDEL', STREAM, entry)
    redis.call('HDEL', key('meta', id), 'entry')
  end
end

-- Adds to the bytes of audio that are stored for a client.
local function add_bytes(client, bytes)
  redis.call('INCRBY', P .. 'bytes', bytes)
  if redis.call('INCRBY', key('bytes', client), bytes) <= 0 then
    redis.call('DEL', key('bytes', client))
  end
end

-- The numbers of jobs by state, those of a client, the bytes of audio, and those of the client.
local function counts(client)
  local found = {}
  for place, state in ipairs({'queued', 'running', 'done', 'failed'}) do
    found[place] = redis.call('ZCARD', key('state', state))
  end
  found[5] = redis.call('SCARD', key('client', client))
  found[6] = math.max(tonumber(redis.call('GET', P .. 'bytes') or 0), 0)
  found[7] = math.max(tonumber(redis.call('GET', key('bytes', client)) or 0), 0)
  return found
end

-- The jobs with these ids that are there.
local function jobs(ids)
  local found = {}
  for _, id in ipairs(ids) do
    local json = redis.call('GET', key('job', id))
    if json then
      found[#found + 1] = json
    end
  end
  return found
end
