-- Tests of the plain Lua modules: lua5.1 config/nginx/lua/tests/run.lua (from any folder).

local folder = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/.."
package.path = folder .. "/?.lua;" .. package.path

local failed, count = 0, 0
for _, file in ipairs({ "choosing", "records", "surroundings", "phases" }) do
    for name, test in pairs(require("tests." .. file)) do
        count = count + 1
        local passed, reason = pcall(test)
        if not passed then
            failed = failed + 1
            print("FAILED " .. name .. ": " .. tostring(reason))
        end
    end
end
print(string.format("%d tests, %d failed", count, failed))
os.exit(failed == 0 and 0 or 1)
