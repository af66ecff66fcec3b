-- Which node gets a request. Plain Lua without nginx and clocks of its own, so that it is tested alone.
--
-- A node is a table of uttera_stt.view. `state` tells what this router knows of a node besides its record:
--   state.is_down(id)     whether connections to it failed, and none has succeeded since
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

-- The nodes that may get a request, best class first; `tried` holds the ids of those that failed it. While the records
-- are too old to be believed, all nodes may accept.
function choice.candidates(nodes, state, tried, now)
    local is_current = view.is_current(nodes, now)
    local classes = { {}, {}, {} }
    for _, node in ipairs(nodes.nodes) do
        if not tried[node.id] and (node.accepts or not is_current) then
            local class = 1
            if state.is_down(node.id) then
                class = 3
            elseif state.is_busy(node.id) or view.is_stale(node, nodes) then
                class = 2
            end
            table.insert(classes[class], node)
        end
    end
    for _, class in ipairs(classes) do
        if #class > 0 then
            return class
        end
    end
    return {}
end

-- The better of two random candidates, or nil without any. `random(n)` is a whole number from 1 to n.
function choice.choose(nodes, state, tried, now, random)
    local candidates = choice.candidates(nodes, state, tried, now)
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
-- node may have begun to work; `status`: its answer, or nginx's 502 or 504; `is_safe`: the request changes nothing, so
-- it may always be repeated.
function choice.may_retry(was_sent, status, is_safe)
    -- Nodes reject with 503 before they read the body.
    return not was_sent or status == 503 or is_safe
end

-- Seconds after which clients should try again, spread so that they do not come back all at once.
function choice.retry_after(random)
    return 2 + random(4)
end

return choice
