-- What becomes of the records in Redis.

local cjson = require "cjson"
local view = require "uttera_stt.view"
local support = require "tests.support"

local equal = support.equal
local node = support.node
local record = support.record
local shares = support.shares
local state = support.state

local tests = {}

function tests.an_old_view_tells_no_loads()
    local nodes = view.after(nil, { node("a", 0.1), node("b", 0.9) }, 100)
    local counts = shares(nodes, state(), {}, 100 + view.TRUST_SECONDS + 1)
    assert(counts.a > 1300 and counts.b > 1300, counts.a .. " " .. counts.b)
    equal(shares(nodes, state(), {}, 100 + view.TRUST_SECONDS - 1).a, 3000)
end

-- The view is kept as JSON between two readings, and a node's clock has more digits than that.
function tests.a_record_is_the_same_after_the_view_was_kept()
    local nodes
    for reading = 0, 6 do
        local ts = 1796026235.1596620 + math.min(reading, 2) * 0.5
        nodes = view.after(nodes, { node("a", 0, { ts = ts }) }, 1796026235.123 + reading / 2)
        nodes = cjson.decode(cjson.encode(nodes))
    end
    equal(nodes.nodes[1].gap, 0.5)
    assert(view.is_stale(nodes.nodes[1], nodes))
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
    equal(node("a", 0, { ts = 1e306 }).ts, nil)
    equal(node("a", 1e999).load, nil)
    equal(#node("a", 0, { version = ("1"):rep(4000) }).version, 64)
    equal(node("a", 0, { host = "node_1.example.org" }).host, "node_1.example.org")
    equal(node("a:b", 0).id, "a:b")
    equal(node("a", 7).load, 1)
    equal(node("a", -7).load, 0)
    equal(node("a", 0, { host = "2001:db8::7" }).host, "2001:db8::7")
    equal(node("a", 0, { host = "[2001:db8::7]" }).host, "2001:db8::7")
end

return tests
