//! Pure decisions: no bytes, no tables.

pub mod address_choice;
pub mod admission;
pub mod alg;
pub mod bypass;
pub mod destinations;
pub mod dice;
pub mod error_rate;
pub mod filtering;
pub mod flood_guard;
pub mod flood_notices;
pub mod flow_guard;
pub mod groups;
pub mod other_protocols;
pub mod per_second;
pub mod port_choice;
pub mod pressure;
pub mod service;
pub mod tcp_state;
pub mod tcp_window;
pub mod timeouts;
