-- Which node is chosen, and what goes to another one.

local choice = require "uttera_stt.choice"
local view = require "uttera_stt.view"
local support = require "tests.support"

local equal = support.equal
local node = support.node
local shares = support.shares
local state = support.state

local tests = {}

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

function tests.questions_about_jobs_are_told_apart()
    local function asks_for(method, path, batch)
        return choice.kind(method, path, batch, false).asks_for
    end
    for _, path in ipairs({ "/7f", "/7f/", "/7f/result", "/7f/events/" }) do
        equal(asks_for("GET", "/v1/audio/jobs" .. path), "job", path)
    end
    equal(asks_for("DELETE", "/v1/audio/jobs/7f"), "job")
    equal(asks_for("GET", "/v1/audio/jobs", "7f"), "batch")
    equal(asks_for("GET", "/v1/audio/jobs"), nil)
    equal(asks_for("GET", "/v1/audio/jobs/7f/text"), nil)
    equal(asks_for("OPTIONS", "/v1/audio/jobs", "7f"), nil)
    equal(asks_for("OPTIONS", "/v1/audio/jobs/7f"), nil)
end

function tests.a_node_that_may_hang_gets_nothing_unasked()
    local nodes = view.after(nil, { node("silent", 0), node("full", 0, { accepts_requests = false }) }, 100)
    local known = state({ silent = { silent = true } })
    equal(shares(nodes, known).silent, 3000, "it will be asked")
    equal(shares(nodes, known, {}, 100, true).none, 3000)
    -- One whose record is missing may be asked beforehand.
    nodes = view.after(view.after(nodes, {}, 101), {}, 102)
    equal(shares(nodes, state(), {}, 102, true).none, 3000)
    equal(shares(nodes, state({ well = { silent = true } }), {}, 102, true).silent, 3000)
end

function tests.nodes_of_all_classes_are_further_attempts()
    local nodes = view.after(nil, { node("a", 0), node("b", 0), node("busy", 0), node("down", 0) }, 100)
    local known = state({ busy = { busy = true }, down = { down = true } })
    local best, count = choice.candidates(nodes, known, { a = true }, 100)
    equal(#best, 1)
    equal(count, 3)
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

return tests
