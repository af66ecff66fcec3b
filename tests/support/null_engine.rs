//! The example `null_engine` of the program: a server whose engine takes a fixed time, or none.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::built;
use crate::processes::Process;

/// A running server. It ends when it is dropped.
pub struct NullEngine {
    /// The process.
    pub process: Process,
    /// Its base URL, without a trailing slash.
    pub url: String,
}

impl NullEngine {
    /// Starts one on a free port with these further arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let started = Command::new(built("examples/null_engine"))
            .args(["--port", "0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Process(started.expect("it is built with the tests"));
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        let url = lines.find(|line| line.starts_with("http://"));
        let url = url.expect("its address").trim().to_owned();
        Self { process, url }
    }
}
