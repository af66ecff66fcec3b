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

function tests.nodes_that_vanish_together_are_kept_for_some_time()
    local full = { accepts_requests = false }
    local function ids(nodes)
        local list = {}
        for _, found in ipairs(nodes.nodes) do
            table.insert(list, found.id)
        end
        return table.concat(list, ",")
    end
    local nodes = view.after(nil, { node("a", 0.1), node("b", 0.1), node("c", 0.1, full) }, 100)
    -- Redis has restarted empty. Then the nodes write their records again, one after the other.
    nodes = view.after(nodes, {}, 100.5)
    equal(ids(nodes), "a,b,c")
    equal(shares(nodes, state()).c, nil, "c is full")
    nodes = view.after(nodes, { node("a", 0.1, { ts = 2 }) }, 101.5)
    equal(ids(nodes), "a,b,c")
    assert(not view.is_stale(nodes.nodes[1], nodes) and view.is_stale(nodes.nodes[2], nodes))
    equal(shares(nodes, state()).a, 3000)
    equal(shares(nodes, state(), { a = true }).b, 3000)
    nodes = view.after(nodes, { node("a", 0.1, { ts = 3 }), node("b", 0.1, { ts = 3 }) }, 102)
    equal(ids(nodes), "a,b,c")
    equal(nodes.nodes[2].missing, nil)
    assert(not view.is_stale(nodes.nodes[2], nodes))
    -- The third one does not come back.
    equal(ids(view.after(nodes, { node("a", 0.1), node("b", 0.1) }, 130)), "a,b,c")
    equal(ids(view.after(nodes, { node("a", 0.1), node("b", 0.1) }, 131)), "a,b")
    -- The first reading after the restart may already have a record.
    nodes = view.after(nil, { node("a", 0.1), node("b", 0.1) }, 100)
    equal(ids(view.after(nodes, { node("a", 0.1) }, 100.5)), "a,b")
    -- One of many that leaves by itself is gone.
    nodes = view.after(nil, { node("a", 0.1), node("b", 0.1), node("c", 0.1) }, 100)
    equal(ids(view.after(nodes, { node("b", 0.1), node("c", 0.1) }, 100.5)), "b,c")
    equal(#view.after(nil, {}, 100).nodes, 0)
end

function tests.light_requests_go_to_nodes_that_accept_no_work_if_none_does()
    local full = { accepts_requests = false }
    local nodes = view.after(nil, { node("a", 1, full), node("b", 1, full) }, 100)
    equal(choice.choose(nodes, state(), {}, 100, math.random), nil)
    equal(choice.choose(nodes, state({ down = { a = true } }), {}, 100, math.random, true).id, "b")
    nodes = view.after(nil, { node("a", 1, full), node("b", 0.9) }, 100)
    equal(choice.choose(nodes, state({ busy = { b = true } }), {}, 100, math.random, true).id, "b")
    equal(choice.choose(nodes, state({ down = { b = true } }), {}, 100, math.random, true).id, "a")
end

function tests.requests_are_told_apart()
    local function kind(method, path, batch, is_upgrade)
        local found = choice.kind(method, path, batch, is_upgrade or false)
        return (found.is_safe and "safe " or "") .. (found.is_light and "light " or "")
            .. (found.takes_jobs and "takes " or "") .. (found.job or "")
    end
    equal(kind("GET", "/v1/models"), "safe light ")
    equal(kind("OPTIONS", "/v1/audio/transcriptions"), "safe light ")
    equal(kind("GET", "/v1/realtime", nil, true), "")
    equal(kind("POST", "/v1/audio/transcriptions"), "")
    equal(kind("POST", "/v1/audio/jobs"), "light takes ")
    equal(kind("POST", "/v1/audio/jobs/"), "light takes ")
    equal(kind("GET", "/v1/audio/jobs", "7f"), "safe light 7f")
    equal(kind("GET", "/v1/audio/jobs/7f/result"), "safe light 7f")
    equal(kind("DELETE", "/v1/audio/jobs/7f"), "light 7f")
    equal(kind("POST", "/v1/audio/jobsx"), "")
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
        record(0, { port = 1e999 }),
        record(0, { host = "10.0.0.5:9005" }),
        record(0, { host = "999.1.1.1" }),
        record(0, { host = "a:b" }),
        record(0, { host = "[::1" }),
        record(0, { host = "1::2::3" }),
        record(0, { host = "fe80::1%eth0" }),
        record(0, { host = "-node" }),
        record(0, { host = "node..example" }),
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
    equal(view.node("stt:nodes:" .. ("a"):rep(256), record(0)), nil)
    local _, reason = view.node("stt:nodes:a", record(0, { host = "a:b" }))
    assert(reason:find("NODE_HOST", 1, true), reason)
    -- JSON has no infinity, but a number that is too large becomes one.
    equal(node("a", 0, { ts = 1e999 }).ts, nil)
    equal(node("a", 0, { ts = -1e999 }).ts, nil)
    equal(node("a", 1e999).load, nil)
    equal(#node("a", 0, { version = ("1"):rep(4000) }).version, 64)
    equal(node("a", 0, { host = "node_1.example.org" }).host, "node_1.example.org")
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
    equal(choice.may_retry(false, false, false), true)
    equal(choice.may_retry(true, true, false), true)
    equal(choice.may_retry(true, false, false), false)
    equal(choice.may_retry(true, false, true), true)
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
    check("valkeys://example.org/3?protocol=resp3", { host = "example.org", database = 3, tls = true })
    check("redis+sentinel://u:p%2F@a,[::1]:7,b.example:8/main/2?sentinel_user=s&sentinel_password=x%26",
        { master = "main", database = 2, user = "u", password = "p/", sentinel_user = "s", sentinel_password = "x&", tls = false })
    local parts = settings.redis("rediss+sentinel://a,[::1]:7/main")
    equal(parts.tls, true)
    equal(parts.host, nil)
    equal(#parts.sentinels, 2)
    equal(parts.sentinels[1].port, 26379)
    equal(parts.sentinels[2].host, "::1")
    equal(parts.sentinels[2].port, 7)
    check("unix:///run/redis.sock?db=1&user=u&pass=p%26", { path = "/run/redis.sock", database = 1, user = "u", password = "p&" })
    for _, url in ipairs({ "", "hunter2", "http://u:hunter2@host", "redis://", "redis://u:hunter2@host:port",
        "redis://u:12#hunter2@host", "redis://u:hunter2@host/no-number", "unix://hunter2",
        "redis://host?db=hunter2", "redis+sentinel://hunter2", "redis+sentinel://a,hunter2:x/main", "redis+sentinel://a,,b/main",
        "redis+sentinel://a/main/hunter2", "redis+sentinel://a/main?protocol=hunter2" }) do
        local reason
        parts, reason = settings.redis(url)
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
end

function tests.addresses_and_names_are_told_apart()
    for _, address in ipairs({ "10.0.0.1", "255.255.255.255", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "2001:db8::7",
        "::ffff:10.0.0.1", "1:2:3:4:5:6:10.0.0.1", "1:2:3:4:5:6:7::" }) do
        assert(names.is_address(address) and not names.is_name(address), address)
    end
    for _, text in ipairs({ "", "10.0.0", "10.0.0.256", "999.1.1.1", "1.2.3.4.5", "10.0.0.5:9005", "a:b", ":1", "1:",
        ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "12345::", "::10.0.0.1:1",
        "::10.0.0.256", "fe80::1%eth0", "[::1]", "::1 " }) do
        assert(not names.is_address(text) and not names.is_name(text), text)
    end
    for _, name in ipairs({ "node1", "node-1.example.org", "stt_node", "3com", "a" }) do
        assert(names.is_name(name) and not names.is_address(name), name)
    end
    for _, text in ipairs({ "-a", "a-", "a..b", ".a", "a.", "a b", ("a"):rep(64), ("a."):rep(127) .. "a", "ä" }) do
        assert(not names.is_name(text), text)
    end
end

function tests.names_are_looked_up_beside_and_the_last_address_is_used_meanwhile()
    local answer, queries, tasks = "10.0.0.7", 0, {}
    package.loaded["nginx.dns.resolver"] = {
        TYPE_A = 1,
        TYPE_AAAA = 28,
        new = function()
            return {
                query = function()
                    queries = queries + 1
                    if not answer then
                        return nil, "no server answers"
                    end
                    return { { address = answer, ttl = 10 } }
                end,
            }
        end,
    }
    local function start(task)
        table.insert(tasks, task)
        return true
    end
    local function finish()
        for _, task in ipairs(tasks) do
            task()
        end
        tasks = {}
    end
    local name = "node-of-a-test.example"
    local address, reason = names.address(name, 100, start)
    equal(address, nil)
    assert(reason:find("looked up", 1, true), reason)
    names.address(name, 100.5, start)
    equal(#tasks, 1, "questions at the same time")
    finish()
    -- A machine without name servers finds nothing, and asks none.
    local has_servers = queries > 0
    if has_servers then
        equal(names.address(name, 101, start), "10.0.0.7")
        -- The servers die. The name is asked for again, and keeps its address.
        answer = nil
        equal(names.address(name, 111, start), "10.0.0.7")
        equal(#tasks, 1)
        finish()
        equal(names.address(name, 111.5, start), "10.0.0.7")
        -- A new address counts, and one that nginx cannot use does not.
        answer = "10.0.0.8"
        names.address(name, 120, start)
        finish()
        equal(names.address(name, 120.5, start), "10.0.0.8")
        answer = "fe80::1%eth0"
        names.address(name, 140, start)
        finish()
        equal(names.address(name, 140.5, start), "10.0.0.8")
    end
    names.retain({})
    equal(names.address(name, 141, function() return nil, "no more timers" end), nil)
    package.loaded["nginx.dns.resolver"] = nil
end

-- The phases of a request, with stand-ins for nginx.
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
