//! Commands that test a running server of any vendor: [`smoke`] checks that it works, [`conformance`] checks
//! that it implements the public API, [`load`] measures how many clients it can serve, and [`mod@bench`] measures
//! its speed and accuracy. [`probe`] holds what they share.
//!
//! The commands are subcommands of `uttera-stt`, but this crate does not depend on the server's code: it uses
//! only what any client can use.

pub mod bench;
pub mod conformance;
pub mod load;
pub mod probe;
pub mod smoke;
