//! The Lua code by itself, and whether linters and programs accept the configurations.

use std::process::Command;

use test_support::repository;
use test_support::routers::skip;

/// Runs a program, if it is installed, and expects it to succeed.
fn succeeds(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let ran = command.args(arguments).current_dir(repository()).output();
    match ran {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}:\n{said}");
        }
        Err(error) => {
            skip(&format!("{program}: {error}"));
        }
    }
}

#[test]
fn the_rules_in_lua_pass_their_own_tests() {
    succeeds("lua5.1", &["config/nginx/lua/tests/run.lua"]);
}

#[test]
fn the_lua_code_has_no_mistakes_that_a_linter_finds() {
    let config = "config/nginx/lua/.luacheckrc";
    succeeds(
        "luacheck",
        &["--config", config, "--no-color", "config/nginx/lua"],
    );
}

#[test]
fn haproxy_accepts_its_configuration() {
    succeeds("haproxy", &["-c", "-f", "config/haproxy/haproxy.cfg"]);
}
