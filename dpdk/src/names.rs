//! Names of DPDK objects: fixed-size C strings.

use std::ffi::CString;

/// Why a name cannot be given to DPDK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name has a NUL byte.
    #[error("{name:?} has a NUL byte")]
    Nul {
        /// The name as given.
        name: String,
    },
    /// The name does not fit into DPDK's field.
    #[error("{name:?} has {} bytes, DPDK takes at most {longest}", name.len())]
    TooLong {
        /// The name as given.
        name: String,
        /// Most bytes that fit.
        longest: usize,
    },
}

/// `size` is DPDK's field including the final NUL.
pub(crate) fn c_name(name: &str, size: u32) -> Result<CString, NameError> {
    let longest = size as usize - 1;
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > longest {
        return Err(NameError::TooLong { name: name.to_owned(), longest });
    }
    CString::new(name).map_err(|_| NameError::Nul { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_fill_the_field_but_for_the_final_nul() {
        assert!(c_name("abc", 4).is_ok());
        assert_eq!(
            c_name("abcd", 4).unwrap_err().to_string(),
            "\"abcd\" has 4 bytes, DPDK takes at most 3"
        );
        assert_eq!(c_name("", 4), Err(NameError::Empty));
        assert!(matches!(c_name("a\0", 4), Err(NameError::Nul { .. })));
    }
}
