//! Raw bindings to the DPDK found by pkg-config, 22.11 or later.
//!
//! Everything here is unsafe to use and is meant for one caller: the crate `dpdk`. The names
//! are DPDK's; `DPDK_*` constants and `dpdk_sys_*` functions stand for macros, see
//! `c/wrapper.h`. Inline functions of DPDK are reached through compiled twins of the same
//! name. No logic lives here, except accessors for fields that sit in unnamed unions.
#![no_std]

#[allow(missing_docs)]
#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
#[allow(unsafe_op_in_unsafe_fn, unnecessary_transmutes, unused_qualifications)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

impl rte_mbuf {
    /// The RSS hash as the driver left it; valid only with `DPDK_MBUF_F_RX_RSS_HASH`.
    #[inline]
    pub fn rss_hash(&self) -> u32 {
        // SAFETY: every member of the union is plain integers, so any bytes are a valid u32.
        unsafe { self.__bindgen_anon_2.hash.rss }
    }

    /// What the driver recognised of the packet (`RTE_PTYPE_*` bits), 0 when unknown.
    #[inline]
    pub fn packet_type(&self) -> u32 {
        // SAFETY: as above, a union of plain integers.
        unsafe { self.__bindgen_anon_1.packet_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_release_is_one_that_was_asked_for() {
        assert!((RTE_VER_YEAR, RTE_VER_MONTH) >= (22, 11));
    }

    #[test]
    fn an_mbuf_is_two_cache_lines() {
        assert_eq!(core::mem::size_of::<rte_mbuf>(), 128);
    }

    #[test]
    fn the_library_links_and_answers() {
        // SAFETY: rte_version takes nothing and returns a static string.
        let version = unsafe { core::ffi::CStr::from_ptr(rte_version()) };
        assert!(version.to_bytes().starts_with(b"DPDK "));
    }
}
