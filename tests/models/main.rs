//! The model store: importing, converting and keeping model files.

mod faults;
mod import;
mod offline;
mod properties;
mod store;
