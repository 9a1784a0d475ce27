//! Who may use a mapping from outside (RFC 4787 section 5, RFC 5382 section 4.3).

pub use crate::config::Filtering;

/// The behaviour as stored in a record.
pub fn stored(filtering: Filtering) -> u8 {
    filtering as u8
}

/// The behaviour that [`stored`] gave.
#[inline]
pub fn from_stored(value: u8) -> Filtering {
    match value {
        0 => Filtering::EndpointIndependent,
        1 => Filtering::AddressDependent,
        _ => Filtering::AddressAndPortDependent,
    }
}
