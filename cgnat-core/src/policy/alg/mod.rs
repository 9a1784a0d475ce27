//! What application level gateways read and write: pure decisions about bytes of a dialog, no
//! packets and no tables.

pub mod ftp;
pub mod pptp;
pub mod stream;
pub mod tftp;
