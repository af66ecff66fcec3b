-- Settings, names and addresses.

local names = require "uttera_stt.names"
local settings = require "uttera_stt.settings"
local support = require "tests.support"

local equal = support.equal

local tests = {}

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
    equal(reason, nil)
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

return tests
