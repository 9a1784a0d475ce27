//! Pure decisions: no bytes, no tables.

pub mod error_rate;
pub mod port_choice;
pub mod tcp_state;
pub mod timeouts;
