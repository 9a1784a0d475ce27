//! Control connections of FTP that are followed: one record each, of 128 bytes, found by
//! mapping and server. It ends with the session that it belongs to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::policy::alg::ftp::Dialog;
use crate::table::slab::impl_record;

/// One control connection.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct ControlConnection {
    pub(crate) generation: u32,
    /// Slot of the mapping.
    pub(crate) mapping: u32,
    /// Address of the server.
    pub(crate) server: u32,
    /// Slot of the subscriber.
    pub(crate) subscriber: u32,
    /// What is said.
    pub(crate) dialog: Dialog,
    next: u32,
    reserved: [u8; 32],
}

const _: () = assert!(size_of::<ControlConnection>() == 128);

impl_record!(ControlConnection, next);
