-- What the tests of several modules need.

local choice = require "uttera_stt.choice"
local view = require "uttera_stt.view"

local support = {}

function support.equal(found, expected, what)
    if found ~= expected then
        error(string.format("%s: %s instead of %s", what or "value", tostring(found), tostring(expected)), 2)
    end
end

function support.record(load, more)
    local fields = { load_score = load, accepts_requests = true, host = "127.0.0.1", port = 9005, version = "1", ts = 1.5 }
    for name, value in pairs(more or {}) do
        fields[name] = value
    end
    return fields
end

function support.node(id, load, more)
    return view.node("stt:nodes:" .. id, support.record(load, more))
end

-- What the router knows, with these exceptions.
function support.state(known)
    known = known or {}
    local function has(name)
        return function(id)
            return (known[name] or {})[id] == true
        end
    end
    return {
        is_down = has("down"),
        is_busy = has("busy"),
        is_silent = has("silent"),
        is_well = has("well"),
        in_flight = function(id)
            return (known.in_flight or {})[id] or 0
        end,
    }
end

-- How often each node is chosen in 3000 choices; `after` is called for each.
function support.shares(nodes, known, tried, now, is_unasked)
    math.randomseed(7)
    local counts = {}
    for _ = 1, 3000 do
        local chosen = choice.choose(nodes, known, tried or {}, now or nodes.at, math.random, false, is_unasked)
        local id = chosen and chosen.id or "none"
        counts[id] = (counts[id] or 0) + 1
    end
    return counts
end

return support
