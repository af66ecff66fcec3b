-- The phases of a request, with stand-ins for nginx.

local view = require "uttera_stt.view"
local support = require "tests.support"

local equal = support.equal
local node = support.node
local state = support.state

local tests = {}

function tests.an_address_that_nginx_cannot_use_is_a_failed_attempt()
    local nodes = view.after(nil, { node("bad", 0), node("good", 0.9) }, 100)
    for _, known in ipairs(nodes.nodes) do
        known.address = known.id
    end
    local down, chosen, exits = {}, nil, 0
    local known = state({ down = down })
    local function nothing() end
    known.view = function() return nodes end
    known.mark_down = function(id) down[id] = true return true end
    known.count, known.add_flight, known.mark_busy = nothing, nothing, nothing
    package.loaded["uttera_stt.shared"] = known
    package.loaded["uttera_stt.probe"] = {}
    package.loaded["cjson.safe"] = {}
    package.loaded["ngx.balancer"] = {
        set_current_peer = function(address)
            if address == "bad" then
                return nil, "no host allowed"
            end
            chosen = address
            return true
        end,
        set_timeouts = nothing,
        set_more_tries = nothing,
        get_last_failure = function() return "failed", 502 end,
    }
    rawset(_G, "ngx", {
        var = { request_id = "1" },
        now = function() return 100 end,
        update_time = nothing,
        log = nothing,
        exit = function() exits = exits + 1 end,
    })
    local router = require "uttera_stt.router"
    router.balance()
    equal(chosen, "good")
    equal(down.bad, true)
    equal(exits, 0)
    rawset(_G, "ngx", nil)
end

return tests
