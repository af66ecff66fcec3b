-- Addresses of host names: the file of hosts, then the name servers of this machine. nginx connects to addresses only.

local names = {}

-- How long an answer is kept at most, and at least, in seconds.
local MOST_SECONDS = 60
local LEAST_SECONDS = 5
-- Time limit of a question, in milliseconds, and the number of tries.
local LIMIT_MILLIS = 500
local TRIES = 2
-- The most names that are looked up at the same time.
local MOST_ASKED = 16

local function is_ipv4(text)
    local octets = { text:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$") }
    for _, octet in ipairs(octets) do
        if tonumber(octet) > 255 then
            return false
        end
    end
    return #octets == 4
end

-- The number of groups in a part of an IPv6 address; nil if the part is malformed.
local function groups(text, may_end_in_ipv4)
    if text == "" then
        return 0
    end
    local count = 0
    for group, separator in (text .. ":"):gmatch("([^:]*)(:)") do
        if may_end_in_ipv4 and group:find(".", 1, true) then
            -- It stands for two groups, and only at the end.
            if not is_ipv4(group) or text:sub(-#group) ~= group then
                return nil
            end
            count = count + 2
        elseif group:find("^%x%x?%x?%x?$") and separator then
            count = count + 1
        else
            return nil
        end
    end
    return count
end

local function is_ipv6(text)
    local head, tail = text:match("^(.-)::(.*)$")
    if not head then
        return groups(text, true) == 8
    end
    local before, after = groups(head, false), groups(tail, true)
    return before ~= nil and after ~= nil and before + after <= 7
end

-- Whether it is an IPv4 or IPv6 address that nginx can connect to; without brackets, and without a zone.
function names.is_address(host)
    return is_ipv4(host) or is_ipv6(host)
end

-- Whether it can be the name of a host. Its last label has a letter, so that a mistyped IPv4 address is no name.
function names.is_name(host)
    local last
    for label in (host .. "."):gmatch("([^.]*)%.") do
        if #label > 63 or not label:find("^[%w_][%w_-]*$") or label:find("-$") then
            return false
        end
        last = label
    end
    return #host <= 253 and last:find("%a") ~= nil
end

-- The addresses in the text of a file of hosts, by lower-case name; IPv4 is preferred.
function names.hosts(text)
    local found = {}
    for line in text:gmatch("[^\r\n]+") do
        local address, rest = line:gsub("#.*", ""):match("^%s*(%S+)%s+(.+)$")
        if address and names.is_address(address) then
            for name in rest:gmatch("%S+") do
                name = name:lower()
                if not found[name] or (found[name]:find(":", 1, true) and not address:find(":", 1, true)) then
                    found[name] = address
                end
            end
        end
    end
    return found
end

-- The name servers and search domains in the text of resolv.conf.
function names.resolver(text)
    local servers, domains = {}, {}
    for line in text:gmatch("[^\r\n]+") do
        local server = line:match("^%s*nameserver%s+([^%s%%]+)")
        if server then
            table.insert(servers, server)
        end
        local search = line:match("^%s*search%s+(.+)$") or line:match("^%s*domain%s+(.+)$")
        if search then
            domains = {}
            for domain in search:gmatch("%S+") do
                table.insert(domains, domain)
            end
        end
    end
    return servers, domains
end

-- The names to ask for, in order.
function names.candidates(host, domains)
    local candidates = {}
    if host:find(".", 1, true) then
        table.insert(candidates, host)
    end
    for _, domain in ipairs(domains) do
        table.insert(candidates, host .. "." .. domain)
    end
    if not host:find(".", 1, true) then
        table.insert(candidates, host)
    end
    return candidates
end

local function contents(path)
    local file = io.open(path, "r")
    if not file then
        return ""
    end
    local text = file:read(256 * 1024)
    file:close()
    return text or ""
end

-- By host: { address, reason, ends = when it should be looked up again, is_asked = whether that is under way }.
local cache = {}
local asked = 0

local function ask(host)
    local resolver = require "nginx.dns.resolver"
    local servers, domains = names.resolver(contents("/etc/resolv.conf"))
    if #servers == 0 then
        return nil, 0, "/etc/resolv.conf names no server"
    end
    local asker, reason = resolver:new({ nameservers = servers, retrans = TRIES, timeout = LIMIT_MILLIS })
    if not asker then
        return nil, 0, reason
    end
    for _, name in ipairs(names.candidates(host, domains)) do
        for _, kind in ipairs({ resolver.TYPE_A, resolver.TYPE_AAAA }) do
            local answers, why = asker:query(name, { qtype = kind })
            reason = why or reason
            for _, answer in ipairs(answers or {}) do
                if answer.address and names.is_address(answer.address) then
                    return answer.address, answer.ttl or MOST_SECONDS
                end
            end
        end
    end
    return nil, 0, reason or "there is no such name"
end

local function keep(host, now, address, seconds, reason)
    local known = cache[host] or {}
    -- An address that was known is used until there is a new one.
    known.address, known.reason = address or known.address, reason
    known.ends = now + math.min(math.max(seconds, LEAST_SECONDS), MOST_SECONDS)
    cache[host] = known
    return known
end

-- The address of a host; nil and the reason, or nil alone while it is looked up for the first time. It waits for no name
-- server: `start(task)` runs the questions beside, and until they are answered, the last address counts.
function names.address(host, now, start)
    if names.is_address(host) then
        return host
    end
    local known = cache[host]
    if known and (known.is_asked or now < known.ends) then
        return known.address, known.reason
    end
    local address = names.hosts(contents("/etc/hosts"))[host:lower()]
    if not address and host:lower() == "localhost" then
        address = "127.0.0.1"
    end
    if address then
        known = keep(host, now, address, MOST_SECONDS, nil)
        return known.address, known.reason
    end
    if asked >= MOST_ASKED then
        return known and known.address, "many other names are being looked up"
    end
    known = known or keep(host, now, nil, 0, nil)
    known.is_asked, asked = true, asked + 1
    local started, why = start(function()
        local called, found, seconds, reason = pcall(ask, host)
        if not called then
            found, seconds, reason = nil, 0, tostring(found)
        end
        known.is_asked, asked = false, asked - 1
        keep(host, now, found, seconds, reason)
    end)
    if not started then
        known.is_asked, asked = false, asked - 1
        return known.address, why
    end
    return known.address, known.reason
end

-- Forgets the hosts that are not in this table.
function names.retain(hosts)
    for host, known in pairs(cache) do
        if not hosts[host] and not known.is_asked then
            cache[host] = nil
        end
    end
end

return names
