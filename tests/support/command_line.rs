//! The program on the command line, in its own folder and environment.

use std::path::Path;
use std::process::{Command, Output};

use uttera_stt::settings::variables::VARIABLES;

use crate::program;

/// Runs the program to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    run_with(folder, arguments, &[])
}

/// Runs the program to its end, with these environment variables.
pub fn run_with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    for variable in VARIABLES {
        command.env_remove(variable.name);
    }
    command.env_remove("UTTERA_API_KEY");
    command.args(arguments).current_dir(folder);
    command.envs(environment.iter().copied());
    command.output().expect("the program runs")
}

/// The standard output.
pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The standard error.
pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
