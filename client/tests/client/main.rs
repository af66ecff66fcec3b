//! The client against scripted servers.

mod faults;
mod https;
mod pool;
mod replies;
mod streams;
mod support;
mod upload;
