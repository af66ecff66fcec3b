-- Tests of the plain Lua modules: lua5.1 config/nginx/lua/tests/run.lua (from any folder).

local folder = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/.."
package.path = folder .. "/?.lua;" .. package.path

local choice = require "uttera_stt.choice"
local names = require "uttera_stt.names"
local settings = require "uttera_stt.settings"
local view = require "uttera_stt.view"

local tests = {}

local function equal(found, expected, what)
    if found ~= expected then
        error(string.format("%s: %s instead of %s", what or "value", tostring(found), tostring(expected)), 2)
    end
end

local function record(load, more)
    local fields = { load_score = load, accepts_requests = true, host = "127.0.0.1", port = 9005, version = "1", ts = 1.5 }
    for name, value in pairs(more or {}) do
        fields[name] = value
    end
    return fields
end

local function node(id, load, more)
    return view.node("stt:nodes:" .. id, record(load, more))
end

-- What the router knows, with these exceptions.
local function state(known)
    known = known or {}
    local function has(name)
        return function(id)
            return (known[name] or {})[id] == true
        end
    end
    return {
        is_down = has("down"),
        is_busy = has("busy"),
        in_flight = function(id)
            return (known.in_flight or {})[id] or 0
        end,
    }
end

-- How often each node is chosen in 3000 choices; `after` is called for each.
local function shares(nodes, known, tried, now)
    math.randomseed(7)
    local counts = {}
    for _ = 1, 3000 do
        local chosen = choice.choose(nodes, known, tried or {}, now or nodes.at, math.random)
        local id = chosen and chosen.id or "none"
        counts[id] = (counts[id] or 0) + 1
    end
    return counts
end

function tests.equal_nodes_share_the_work()
    local nodes = view.after(nil, { node("a", 0.2), node("b", 0.2), node("c", 0.2) }, 100)
    local counts = shares(nodes, state())
    for _, id in ipairs({ "a", "b", "c" }) do
        assert(counts[id] > 850 and counts[id] < 1150, id .. ": " .. counts[id])
    end
end

function tests.the_better_of_two_is_chosen_so_the_worst_of_all_never()
    local nodes = view.after(nil, { node("a", 0.1), node("b", 0.2), node("c", 0.3) }, 100)
    local counts = shares(nodes, state())
    equal(counts.c, nil)
    assert(counts.a > 1800 and counts.b > 800, counts.a .. " " .. counts.b)
end

function tests.requests_in_flight_correct_the_reported_load()
    local nodes = view.after(nil, { node("a", 0.1), node("b", 0.2) }, 100)
    equal(shares(nodes, state()).a, 3000)
    equal(shares(nodes, state({ in_flight = { a = 0.15 } })).b, 3000)
end

function tests.a_node_with_unknown_load_is_not_idle()
    local nodes = view.after(nil, { node("a", "much"), node("b", 0.4) }, 100)
    equal(nodes.nodes[1].load, nil)
    equal(shares(nodes, state()).b, 3000)
    local not_a_number = node("a", 0 / 0)
    equal(not_a_number.load, nil)
end

function tests.nodes_that_accept_nothing_get_nothing()
    local busy = { accepts_requests = false }
    local nodes = view.after(nil, { node("a", 0.9), node("b", 0, busy), node("c", 0, busy) }, 100)
    equal(shares(nodes, state()).a, 3000)
    nodes = view.after(nil, { node("b", 0, busy) }, 100)
    equal(shares(nodes, state()).none, 3000)
    -- Records that are too old say nothing about that.
    equal(shares(nodes, state(), {}, 100 + view.TRUST_SECONDS + 1).b, 3000)
end

function tests.failed_and_rejecting_nodes_come_last()
    local nodes = view.after(nil, { node("a", 0), node("b", 0.9), node("c", 0) }, 100)
    equal(shares(nodes, state({ down = { a = true }, busy = { c = true } })).b, 3000)
    equal(shares(nodes, state({ down = { a = true }, busy = { c = true } }), { b = true }).c, 3000)
    equal(shares(nodes, state({ down = { a = true } }), { b = true, c = true }).a, 3000)
    equal(shares(nodes, state(), { a = true, b = true, c = true }).none, 3000)
end

function tests.an_old_view_tells_no_loads()
    local nodes = view.after(nil, { node("a", 0.1), node("b", 0.9) }, 100)
    local counts = shares(nodes, state(), {}, 100 + view.TRUST_SECONDS + 1)
    assert(counts.a > 1300 and counts.b > 1300, counts.a .. " " .. counts.b)
    equal(shares(nodes, state(), {}, 100 + view.TRUST_SECONDS - 1).a, 3000)
end

function tests.a_record_that_is_not_renewed_as_usual_is_stale()
    local nodes
    for reading = 0, 8 do
        nodes = view.after(nodes, {
            node("quick", 0, { ts = math.floor(reading / 1) }),
            node("slow", 0, { ts = math.floor(reading / 4) }),
        }, 100 + reading / 2)
    end
    -- Both were just renewed.
    local quick, slow = nodes.nodes[1], nodes.nodes[2]
    equal(quick.gap, 0.5)
    equal(slow.gap, 2)
    assert(not view.is_stale(quick, nodes) and not view.is_stale(slow, nodes))
    -- The slow one is renewed every two seconds, so only the quick one is missing.
    for reading = 9, 13 do
        nodes = view.after(nodes, { node("quick", 0, { ts = 8 }), node("slow", 0, { ts = 2 }) }, 100 + reading / 2)
    end
    assert(view.is_stale(nodes.nodes[1], nodes) and not view.is_stale(nodes.nodes[2], nodes))
    equal(shares(nodes, state()).slow, 3000)
    -- While Redis is away, nothing becomes stale: the view is the last one.
    assert(not view.is_stale(nodes.nodes[2], nodes))
end

function tests.a_redis_that_became_empty_is_like_one_that_is_away()
    local nodes = view.after(nil, { node("a", 0.1) }, 100)
    equal(view.after(nodes, {}, 110), nodes)
    equal(#view.after(nodes, {}, 100 + view.TRUST_SECONDS + 1).nodes, 0)
    equal(#view.after(nil, {}, 100).nodes, 0)
    -- One node that leaves while others stay is gone.
    nodes = view.after(nil, { node("a", 0.1), node("b", 0.1) }, 100)
    equal(#view.after(nodes, { node("b", 0.1) }, 100.5).nodes, 1)
end

function tests.what_is_no_record_is_left_out()
    local bad = {
        record(0, { host = 7 }),
        record(0, { host = "a\r\nb" }),
        record(0, { host = "" }),
        record(0, { port = 0 }),
        record(0, { port = 65536 }),
        record(0, { port = 1.5 }),
        record(0, { port = "9005" }),
        {},
        "text",
    }
    for index, value in ipairs(bad) do
        equal(view.node("stt:nodes:a", value), nil, "record " .. index)
    end
    equal(view.node("stt:nodes:a", nil), nil)
    equal(view.node("other:a", record(0)), nil)
    equal(view.node("stt:nodes:", record(0)), nil)
    equal(view.node("stt:nodes:a\r\nX: b", record(0)), nil)
    equal(node("a:b", 0).id, "a:b")
    equal(node("a", 7).load, 1)
    equal(node("a", -7).load, 0)
    equal(node("a", 0, { host = "2001:db8::7" }).host, "2001:db8::7")
    equal(node("a", 0, { host = "[2001:db8::7]" }).host, "2001:db8::7")
end

function tests.uploads_weigh_by_their_size()
    local small, large = choice.request_load(20000), choice.request_load(20 * 1024 * 1024)
    assert(small >= choice.REQUEST_LOAD and small < 2 * choice.REQUEST_LOAD, small)
    assert(large > 20 * small, large)
    assert(choice.request_load(1e12) <= choice.REQUEST_LOAD + choice.MOST_UPLOAD_LOAD)
    equal(choice.request_load(-1), choice.REQUEST_LOAD)
    local mean = 0
    for _ = 1, 200 do
        mean = choice.mean_after(mean, 1000)
    end
    assert(mean > 990 and mean <= 1000, mean)
end

function tests.only_requests_that_were_not_begun_go_to_another_node()
    equal(choice.may_retry(false, 502, false), true)
    equal(choice.may_retry(true, 503, false), true)
    equal(choice.may_retry(true, 502, false), false)
    equal(choice.may_retry(true, 504, false), false)
    equal(choice.may_retry(true, 502, true), true)
end

function tests.clients_come_back_at_different_times()
    local seen = {}
    for _ = 1, 200 do
        local seconds = choice.retry_after(math.random)
        assert(seconds >= 3 and seconds <= 6, seconds)
        seen[seconds] = true
    end
    assert(seen[3] and seen[6])
end

function tests.redis_urls()
    local function check(url, expected)
        local parts, reason = settings.redis(url)
        assert(parts, url .. ": " .. tostring(reason))
        for name, value in pairs(expected) do
            equal(parts[name], value, url .. " " .. name)
        end
    end
    check("redis://example.org", { host = "example.org", port = 6379, database = 0, tls = false })
    check("rediss://:p%23x@example.org:7/2", { host = "example.org", port = 7, database = 2, password = "p#x", tls = true })
    check("redis://u:a:b@[::1]:7", { host = "::1", port = 7, user = "u", password = "a:b" })
    check("unix:///run/redis.sock?db=1&user=u&pass=p%26", { path = "/run/redis.sock", database = 1, user = "u", password = "p&" })
    for _, url in ipairs({ "", "hunter2", "http://u:hunter2@host", "redis://", "redis://u:hunter2@host:port",
        "redis://u:12#hunter2@host", "redis://u:hunter2@host/no-number", "unix://hunter2" }) do
        local parts, reason = settings.redis(url)
        equal(parts, nil, url)
        assert(not reason:find("hunter2"), reason)
    end
end

function tests.the_environment_comes_before_the_file()
    local text = "# a comment\nREDIS_URL = 'redis://file:1'\nOTHER=x\n"
    local function read()
        return text
    end
    local function nothing() end
    equal(settings.load("p", nothing, read).redis.host, "file")
    equal(settings.load("p", function() return "redis://env" end, read).redis.host, "env")
    equal(settings.load("p", nothing, nothing).redis.host, "127.0.0.1")
    local loaded, reason = settings.load("p", function() return "no" end, nothing)
    equal(loaded, nil)
    assert(reason:find("REDIS_URL", 1, true))
end

function tests.names_of_hosts()
    local hosts = names.hosts("127.0.0.1 localhost Node-1 # alias\n::1 localhost six\n#10.0.0.1 no\n10.0.0.2\tnode-2\n")
    equal(hosts.localhost, "127.0.0.1")
    equal(hosts["node-1"], "127.0.0.1")
    equal(hosts.six, "::1")
    equal(hosts["node-2"], "10.0.0.2")
    equal(hosts.no, nil)
    equal(hosts.alias, nil)
    local servers, domains = names.resolver("# c\nnameserver 192.0.2.1\nsearch a.example b.example\nnameserver ::1\n")
    equal(table.concat(servers, ","), "192.0.2.1,::1")
    equal(table.concat(names.candidates("node", domains), ","), "node.a.example,node.b.example,node")
    equal(names.candidates("node.example", domains)[1], "node.example")
    assert(names.is_address("10.0.0.1") and names.is_address("::1") and not names.is_address("node1"))
end

-- A node that works twice as fast gets about twice the requests, because fewer of its requests are in flight.
function tests.work_follows_speed()
    math.randomseed(7)
    local nodes = view.after(nil, { node("slow", 0), node("slow-2", 0), node("fast", 0) }, 100)
    local speed, flight, done = { slow = 1, ["slow-2"] = 1, fast = 2 }, {}, {}
    local known = state({ in_flight = flight })
    for id in pairs(speed) do
        flight[id], done[id] = 0, 0
    end
    for _ = 1, 20000 do
        -- Four fifths of what the nodes can do together arrive.
        if math.random() < 0.8 then
            local chosen = choice.choose(nodes, known, {}, 100, math.random)
            flight[chosen.id] = flight[chosen.id] + choice.request_load(100000)
        end
        for id, factor in pairs(speed) do
            if math.random() < factor / 4 and flight[id] > 1e-9 then
                flight[id] = flight[id] - choice.request_load(100000)
                done[id] = done[id] + 1
            end
        end
    end
    local ratio = done.fast / done.slow
    assert(ratio > 1.2 and ratio < 2.8, ratio)
end

local failed, count = 0, 0
for name, test in pairs(tests) do
    count = count + 1
    local passed, reason = pcall(test)
    if not passed then
        failed = failed + 1
        print("FAILED " .. name .. ": " .. tostring(reason))
    end
end
print(string.format("%d tests, %d failed", count, failed))
os.exit(failed == 0 and 0 or 1)
