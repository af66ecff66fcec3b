-- What all worker processes of nginx share: the view of the nodes, requests in flight, nodes that failed, and counts.
-- It lives in the dictionary `uttera_stt` (lua_shared_dict), and what only one node knows in `uttera_stt_makers`.

local cjson = require "cjson.safe"
local ffi = require "ffi"
local choice = require "uttera_stt.choice"

local shared = {}

local dict = ngx.shared.uttera_stt
-- A dictionary of its own: clients add to it, and a full one forgets its oldest entries.
local makers = ngx.shared.uttera_stt_makers

ffi.cdef("int kill(int pid, int signal);")

-- A node that rejected a request gets none for this long, in seconds, if another one can take it.
local BUSY_SECONDS = 1
-- Seconds between two questions to a node of which Redis tells nothing new, and how long its answer counts.
local CHECK_SECONDS, ANSWER_SECONDS = 2, 3
-- Seconds after which a failed node counts as reachable, if nothing has probed it meanwhile.
local DOWN_SECONDS = 60
-- How long a node that has jobs is waited for after Redis had its last record, in seconds.
local RETURN_SECONDS = 600
-- The longest life of an ephemeral key for realtime sessions, in seconds, and how long the node of a job is remembered.
local KEY_SECONDS = 7200
local JOB_SECONDS = 7 * 86400
-- The longest pause between two probes of a failed node, in seconds.
local MOST_PAUSE = 8
-- Requests are counted in whole millionths of load: sums of fractions would drift.
local UNIT = 1e6

local cached_version, cached_view

-- The view of the nodes; empty before Redis was read for the first time.
function shared.view()
    local version = dict:get("version") or 0
    if version ~= cached_version then
        cached_view = cjson.decode(dict:get("view") or "")
        cached_version = version
    end
    return cached_view or { at = 0, nodes = {} }
end

-- Replaces the view; true, or nil and why it could not be.
function shared.set_view(view)
    local text, reason = cjson.encode(view)
    local is_set
    if text then
        is_set, reason = dict:set("view", text)
    end
    if not is_set then
        return nil, "the view cannot be kept: " .. tostring(reason)
    end
    dict:incr("version", 1, 0)
    for _, node in ipairs(view.nodes) do
        dict:set("seen:" .. node.id, true, RETURN_SECONDS)
    end
    return true
end

-- Whether a node was registered not long ago.
function shared.may_return(id)
    return dict:get("seen:" .. id) ~= nil
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

-- What is in flight on a node is counted twice: as a sum, and for each worker process, by which the sum is put right
-- when the process ends without having finished its requests. Processes of an earlier configuration, which still have
-- requests after a reload, count like all others.
local function sum_key(id)
    return "flight:" .. id
end

local function part_prefix(pid)
    return "part:" .. pid .. ":"
end

-- Takes what a worker process that is gone had in flight out of the sums.
local function forget_worker(pid)
    local prefix = part_prefix(pid)
    for _, key in ipairs(dict:get_keys(0)) do
        if key:sub(1, #prefix) == prefix then
            local part = dict:get(key) or 0
            dict:delete(key)
            dict:incr(sum_key(key:sub(#prefix + 1)), -part, 0)
        end
    end
    dict:delete("worker:" .. pid)
end

-- Registers this worker process (init_worker_by_lua).
function shared.start_worker()
    -- A process of this number may have ended before.
    forget_worker(ngx.worker.pid())
    dict:set("worker:" .. ngx.worker.pid(), true)
end

-- Forgets the worker processes that are gone. Called by one process only.
function shared.forget_lost_workers()
    for _, key in ipairs(dict:get_keys(0)) do
        local pid = tonumber(key:match("^worker:(%d+)$"))
        -- All worker processes run as the same user, so a signal that cannot be sent means that there is none.
        if pid and ffi.C.kill(pid, 0) ~= 0 then
            forget_worker(pid)
        end
    end
end

-- Adds to the load that this router has in flight on a node.
function shared.add_flight(id, load)
    local units = math.floor(load * UNIT + 0.5)
    dict:incr(sum_key(id), units, 0)
    dict:incr(part_prefix(ngx.worker.pid()) .. id, units, 0)
end

-- Load of the requests that this router has on a node.
function shared.in_flight(id)
    return math.max(dict:get(sum_key(id)) or 0, 0) / UNIT
end

function shared.is_down(id)
    return dict:get("down:" .. id) ~= nil
end

-- Whether a node accepted a connection, and gave no answer.
function shared.is_silent(id)
    return dict:get("silent:" .. id) ~= nil
end

-- Whether a node has just answered.
function shared.is_well(id)
    return dict:get("well:" .. id) ~= nil
end

-- Notes that a node could not be reached, or is silent; returns whether that is new.
function shared.mark_down(id, now, is_silent)
    dict:set("silent:" .. id, is_silent or nil, DOWN_SECONDS)
    dict:delete("well:" .. id)
    local is_new = not shared.is_down(id)
    local failures = dict:incr("failures:" .. id, 1, 0, DOWN_SECONDS)
    dict:set("down:" .. id, now + math.min(0.25 * 2 ^ failures, MOST_PAUSE), DOWN_SECONDS)
    return is_new
end

-- Notes that a node answered; returns whether it counted as unreachable.
function shared.mark_up(id)
    local was_down = shared.is_down(id)
    dict:set("well:" .. id, true, ANSWER_SECONDS)
    dict:delete("silent:" .. id)
    dict:delete("down:" .. id)
    dict:delete("failures:" .. id)
    return was_down
end

-- Whether a node that counts as unreachable should be probed; true for one caller only, for some seconds.
function shared.is_probe_due(id, now)
    local due = dict:get("down:" .. id)
    return due ~= nil and now >= due and dict:add("probe:" .. id, true, 3)
end

-- Whether a node should be probed because nothing else tells its state; true once in some seconds.
function shared.is_check_due(id)
    return dict:add("probe:" .. id, true, CHECK_SECONDS)
end

function shared.is_busy(id)
    return dict:get("busy:" .. id) ~= nil
end

-- Notes that a node rejected a request; `is_answer`: that it said so when it was asked.
function shared.mark_busy(id, is_answer)
    dict:set("busy:" .. id, true, is_answer and ANSWER_SECONDS or BUSY_SECONDS)
end

-- Notes which node made an ephemeral key, for the longest life of such a key. The key itself is not kept.
function shared.remember_maker(key, id)
    makers:set("key:" .. ngx.md5(key), id, KEY_SECONDS)
end

-- The node that made an ephemeral key; nil if unknown.
function shared.maker(key)
    return makers:get("key:" .. ngx.md5(key))
end

-- Notes which node accepted a job.
function shared.remember_job(job, id)
    makers:set("job:" .. job, id, JOB_SECONDS)
end

-- The node that accepted a job; nil if unknown.
function shared.node_of_job(job)
    return makers:get("job:" .. job)
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
