//! The program; [`uttera_stt::cli`] has all of it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match uttera_stt::cli::run(uttera_stt::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
