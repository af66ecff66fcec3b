//! The table of variables: one row each, in the order of the documentation, a file for each subject.

mod access;
mod escalation;
mod inference;
mod limits;
mod listening;
mod log;
mod model;
mod neighbours;
mod workers;

use super::Settings;
pub use escalation::{POLICY as ESCALATION, ct2_path};

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// As in the environment.
    pub name: &'static str,
    /// As in the documentation.
    pub default: &'static str,
    /// One line.
    pub meaning: &'static str,
    /// Never shown.
    pub secret: bool,
    /// Whether this version acts on it; else it is read, checked, and warned about when set.
    pub in_effect: bool,
    /// Puts a value into the settings, or says what is allowed.
    pub read: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Known to the Python original, without meaning here.
pub const OF_THE_PYTHON_ORIGINAL: &[&str] = &["VENV_PYTHON", "WHISPER_SCRIPT"];

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// A row that is in effect and no secret.
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

/// A row that this version reads and checks and nothing more.
const fn later(
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

/// All of them, in this order.
pub static VARIABLES: &[Variable] = &JOINED;

const SUBJECTS: &[&[Variable]] = &[
    listening::ROWS,
    model::ROWS,
    workers::ROWS,
    limits::ROWS,
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

/// Iterators do not run while compiling.
const fn joined() -> [Variable; COUNT] {
    let mut all = [SUBJECTS[0][0]; COUNT];
    let (mut place, mut subject) = (0, 0);
    while subject < SUBJECTS.len() {
        let mut row = 0;
        while row < SUBJECTS[subject].len() {
            all[place] = SUBJECTS[subject][row];
            place += 1;
            row += 1;
        }
        subject += 1;
    }
    all
}
