//! The table of variables: one row per variable, one file per subject, in the order of the
//! documentation.

mod access;
mod escalation;
mod inference;
mod jobs;
mod limits;
mod listening;
mod live;
mod log;
mod model;
mod neighbours;
mod tls;
mod workers;

use super::Settings;
pub use escalation::{POLICY as ESCALATION, ct2_path};

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The name in the environment.
    pub name: &'static str,
    /// The default, as the documentation shows it.
    pub default: &'static str,
    /// The meaning, in one line.
    pub meaning: &'static str,
    /// Whether the value is hidden in all output.
    pub secret: bool,
    /// Whether this version uses the variable. If not, its value is checked and a warning says that
    /// it has no effect.
    pub in_effect: bool,
    /// Stores a value in the settings, or returns a text that says what is allowed.
    pub read: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Variables of the Python original that have no meaning here.
pub const OF_THE_PYTHON_ORIGINAL: &[&str] = &["VENV_PYTHON", "WHISPER_SCRIPT"];

/// The row with this name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// A row that is in effect and not secret.
const fn row(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Settings, &str) -> Result<(), String>,
) -> Variable {
    Variable {
        name,
        default,
        meaning,
        secret: false,
        in_effect: true,
        read,
    }
}

/// A row that this version checks but does not use.
const fn unused(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Settings, &str) -> Result<(), String>,
) -> Variable {
    Variable {
        name,
        default,
        meaning,
        secret: false,
        in_effect: false,
        read,
    }
}

const fn secret(mut variable: Variable) -> Variable {
    variable.secret = true;
    variable
}

/// All variables, in the order of the documentation.
pub static VARIABLES: &[Variable] = &JOINED;

const SUBJECTS: &[&[Variable]] = &[
    listening::ROWS,
    tls::ROWS,
    model::ROWS,
    workers::ROWS,
    limits::ROWS,
    live::ROWS,
    jobs::ROWS,
    neighbours::ROWS,
    access::ROWS,
    inference::ROWS,
    escalation::ROWS,
    log::ROWS,
];
static JOINED: [Variable; COUNT] = joined();

const COUNT: usize = {
    let (mut count, mut subject) = (0, 0);
    while subject < SUBJECTS.len() {
        count += SUBJECTS[subject].len();
        subject += 1;
    }
    count
};

/// Concatenates the subjects. Loops by index, since iterators are not available in a constant.
const fn joined() -> [Variable; COUNT] {
    let mut all = [SUBJECTS[0][0]; COUNT];
    let (mut index, mut subject) = (0, 0);
    while subject < SUBJECTS.len() {
        let mut row = 0;
        while row < SUBJECTS[subject].len() {
            all[index] = SUBJECTS[subject][row];
            index += 1;
            row += 1;
        }
        subject += 1;
    }
    all
}
