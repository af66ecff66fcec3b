-- What all worker processes of nginx share: the view of the nodes, requests in flight, nodes that failed, and counts.
-- It lives in the dictionary `uttera_stt` (lua_shared_dict).

local cjson = require "cjson.safe"
local choice = require "uttera_stt.choice"

local shared = {}

local dict = ngx.shared.uttera_stt

-- A node that rejected a request gets none for this long, in seconds, if another one can take it.
local BUSY_SECONDS = 1
-- Seconds after which a failed node counts as reachable, if nothing has probed it meanwhile.
local DOWN_SECONDS = 60
-- The longest life of an ephemeral key for realtime sessions, in seconds.
local KEY_SECONDS = 7200
-- The longest pause between two probes of a failed node, in seconds.
local MOST_PAUSE = 8
-- Requests are counted in whole millionths of load: sums of fractions would drift.
local UNIT = 1e6

-- The number of this configuration, counted up when nginx reads it. Worker processes of the one before may still have
-- requests when those of this one start.
local generation

local cached_version, cached_view

-- Runs once in the master process, before the workers start.
function shared.new_generation()
    generation = dict:incr("generation", 1, 0)
end

-- The view of the nodes; empty before Redis was read for the first time.
function shared.view()
    local version = dict:get("version") or 0
    if version ~= cached_version then
        cached_view = cjson.decode(dict:get("view") or "")
        cached_version = version
    end
    return cached_view or { at = 0, nodes = {} }
end

-- Replaces the view. The reason is why Redis could not be read, or nil.
function shared.set_view(view)
    dict:set("view", cjson.encode(view))
    dict:incr("version", 1, 0)
end

-- Why Redis could not be read the last time; nil if it could.
function shared.redis_error()
    return dict:get("redis error")
end

-- Notes why Redis could not be read, or nil; returns whether that is a change.
function shared.set_redis_error(reason)
    local before = dict:get("redis error")
    dict:set("redis error", reason)
    return (before == nil) ~= (reason == nil)
end

local function flight_key(of_generation, worker, id)
    return "flight:" .. of_generation .. ":" .. worker .. ":" .. id
end

-- Forgets what a worker process that crashed had in flight: this one has taken its place.
function shared.start_worker()
    local prefix = flight_key(generation, ngx.worker.id(), "")
    for _, key in ipairs(dict:get_keys(0)) do
        if key:sub(1, #prefix) == prefix then
            dict:delete(key)
        end
    end
end

-- Adds to the load that this router has in flight on a node.
function shared.add_flight(id, load)
    dict:incr(flight_key(generation, ngx.worker.id(), id), math.floor(load * UNIT + 0.5), 0)
end

-- Load of the requests that this router has on a node.
function shared.in_flight(id)
    local sum = 0
    for worker = 0, ngx.worker.count() - 1 do
        sum = sum + (dict:get(flight_key(generation, worker, id)) or 0)
        sum = sum + (dict:get(flight_key(generation - 1, worker, id)) or 0)
    end
    return math.max(sum, 0) / UNIT
end

function shared.is_down(id)
    return dict:get("down:" .. id) ~= nil
end

-- Notes that a node could not be reached; returns whether that is new.
function shared.mark_down(id, now)
    local is_new = not shared.is_down(id)
    local failures = dict:incr("failures:" .. id, 1, 0, DOWN_SECONDS)
    dict:set("down:" .. id, now + math.min(0.25 * 2 ^ failures, MOST_PAUSE), DOWN_SECONDS)
    return is_new
end

-- Notes that a node answered; returns whether it counted as unreachable.
function shared.mark_up(id)
    local was_down = shared.is_down(id)
    dict:delete("down:" .. id)
    dict:delete("failures:" .. id)
    return was_down
end

-- Whether a node that counts as unreachable should be probed; true for one caller only, for some seconds.
function shared.is_probe_due(id, now)
    local due = dict:get("down:" .. id)
    return due ~= nil and now >= due and dict:add("probe:" .. id, true, 3)
end

-- Whether any node should be probed because nothing else tells its state; true every two seconds.
function shared.is_check_due(id)
    return dict:add("probe:" .. id, true, 2)
end

function shared.is_busy(id)
    return dict:get("busy:" .. id) ~= nil
end

-- Notes that a node rejected a request.
function shared.mark_busy(id)
    dict:set("busy:" .. id, true, BUSY_SECONDS)
end

-- Notes which node made an ephemeral key, for the longest life of such a key. The key itself is not kept.
function shared.remember_maker(key, id)
    dict:set("maker:" .. ngx.md5(key), id, KEY_SECONDS)
end

-- The node that made an ephemeral key; nil if unknown.
function shared.maker(key)
    return dict:get("maker:" .. ngx.md5(key))
end

-- The upload size that counts where it is unknown, in bytes.
function shared.mean_upload()
    return dict:get("mean upload") or choice.FIRST_MEAN
end

-- Notes the size of an upload.
function shared.saw_upload(bytes)
    -- Two processes that do this at the same moment lose one of many samples.
    dict:set("mean upload", choice.mean_after(shared.mean_upload(), bytes))
end

-- Counts an event, of a node if there is an id.
function shared.count(what, id)
    dict:incr("count:" .. what .. (id and ":" .. id or ""), 1, 0)
end

function shared.counted(what, id)
    return dict:get("count:" .. what .. (id and ":" .. id or "")) or 0
end

return shared
