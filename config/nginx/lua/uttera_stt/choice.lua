-- Which node gets a request. Plain Lua without nginx and clocks of its own, so that it is tested alone.
--
-- A node is a table of uttera_stt.view. `state` tells what this router knows of a node besides its record:
--   state.is_down(id)     whether connections to it failed, and none has succeeded since
--   state.is_silent(id)   whether it accepts connections, and gave no answer when it was asked last
--   state.is_well(id)     whether it has just answered when it was asked
--   state.is_busy(id)     whether it has just rejected a request
--   state.in_flight(id)   load of the requests that this router has there

local view = require "uttera_stt.view"

local choice = {}

-- The load that counts for a node whose load is unknown: such a node is not idle.
choice.UNKNOWN_LOAD = 0.5
-- Load of a request, and of each megabyte of its upload. Load 1 is two minutes of work (ROUTING_DRAIN_CAP_SECONDS), a
-- voice command some tenths of a second on a usual node, and a megabyte half a minute of WAV.
choice.REQUEST_LOAD = 0.005
choice.MEGABYTE_LOAD = 0.01
-- The most that one upload counts. The length of compressed audio is unknown, and the node reports what it really is
-- within a second.
choice.MOST_UPLOAD_LOAD = 0.3
-- The upload size, in bytes, that counts until one was seen.
choice.FIRST_MEAN = 256 * 1024

local MEGABYTE = 1024 * 1024
local SAFE = { GET = true, HEAD = true, OPTIONS = true }

-- The load of a request whose upload has this many bytes.
function choice.request_load(bytes)
    local upload = math.max(bytes, 0) / MEGABYTE * choice.MEGABYTE_LOAD
    return choice.REQUEST_LOAD + math.min(upload, choice.MOST_UPLOAD_LOAD)
end

-- The mean upload size after one of this size; it stands for uploads whose size is unknown.
function choice.mean_after(mean, bytes)
    return mean + (bytes - mean) * 0.05
end

-- The load of a node as this router sees it.
function choice.score(node, nodes, state, now)
    local load = choice.UNKNOWN_LOAD
    if node.load and view.is_current(nodes, now) then
        load = node.load
    end
    return load + state.in_flight(node.id)
end

-- Whether a request to a node might wait for ever: the kernel of a node that is stopped still accepts connections.
function choice.may_hang(node, nodes, state)
    return state.is_silent(node.id) or (view.is_stale(node, nodes) and not state.is_well(node.id))
end

-- The nodes of the best class that may get a request, and how many nodes may get it in all classes. `tried` holds the
-- ids of those that failed it. While the records are too old to be believed, all nodes may accept. `is_light`: a request
-- without audio to transcribe now, which nodes serve even when they accept no more work. `is_unasked`: the node will not
-- be asked before it gets the request, so that it must not be one that may hang.
function choice.candidates(nodes, state, tried, now, is_light, is_unasked)
    local is_current = view.is_current(nodes, now)
    local classes, count = { {}, {}, {}, {} }, 0
    for _, node in ipairs(nodes.nodes) do
        local accepts = node.accepts or not is_current
        local is_possible = not tried[node.id] and (accepts or is_light)
        if is_possible and not (is_unasked and choice.may_hang(node, nodes, state)) then
            count = count + 1
            local class = 1
            if state.is_down(node.id) then
                class = 4
            elseif not accepts then
                class = 3
            elseif state.is_busy(node.id) or view.is_stale(node, nodes) then
                class = 2
            end
            table.insert(classes[class], node)
        end
    end
    for _, class in ipairs(classes) do
        if #class > 0 then
            return class, count
        end
    end
    return {}, 0
end

-- The better of two random candidates, or nil without any. `random(n)` is a whole number from 1 to n.
function choice.choose(nodes, state, tried, now, random, is_light, is_unasked)
    local candidates = choice.candidates(nodes, state, tried, now, is_light, is_unasked)
    local count = #candidates
    if count < 2 then
        return candidates[1]
    end
    local first = random(count)
    local second = random(count - 1)
    if second >= first then
        second = second + 1
    end
    local one, other = candidates[first], candidates[second]
    -- The order of the two is random, so a tie is broken at random.
    if choice.score(other, nodes, state, now) < choice.score(one, nodes, state, now) then
        return other
    end
    return one
end

-- Whether a request may go to another node after an attempt. `was_sent`: a part of the request was sent, so the
-- node may have begun to work; `is_unprocessed`: the node said that it rejected the request before any work; `is_safe`:
-- the request changes nothing, so it may always be repeated.
function choice.may_retry(was_sent, is_unprocessed, is_safe)
    return not was_sent or is_unprocessed or is_safe
end

-- What a request is: { is_safe = it changes nothing, is_light = it brings no audio to transcribe now, takes_jobs = it
-- submits jobs, job = the id of the job that it is about (or of a batch of them), asks_for = "job" or "batch" if the reply
-- says whether there is one }.
function choice.kind(method, path, batch, is_upgrade)
    local kind = { is_safe = (SAFE[method] and not is_upgrade) or false }
    -- nginx has decoded the path and merged its slashes.
    local rest = path:match("^/v1/audio/jobs(.*)$")
    if rest == "" or rest == "/" then
        kind.takes_jobs = method == "POST"
        kind.job = not kind.takes_jobs and batch or nil
        kind.asks_for = kind.job and "batch"
    elseif rest then
        local part
        kind.job, part = rest:match("^/([%w-]+)/?(.-)/?$")
        kind.asks_for = kind.job and (part == "" or part == "result" or part == "events") and "job" or nil
    end
    if method == "OPTIONS" then
        kind.asks_for = nil
    end
    kind.is_light = kind.is_safe or (method == "DELETE" and not is_upgrade) or kind.takes_jobs or false
    return kind
end

-- Seconds after which clients should try again, spread so that they do not come back all at once.
function choice.retry_after(random)
    return 2 + random(4)
end

return choice
