//! Commands that ask a running server, whoever wrote it: [`smoke`] checks that it works, [`conformance`]
//! that it follows the public API, [`load`] how many clients it serves, and [`bench`] how fast and how
//! accurate it is. [`probe`] holds what they share.
//!
//! The commands are subcommands of `uttera-stt`, but this crate knows nothing of the server's code: it
//! sees what a client sees.

pub mod bench;
pub mod conformance;
pub mod load;
pub mod probe;
pub mod smoke;
