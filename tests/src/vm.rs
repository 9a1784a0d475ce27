//! A server whose network cards are bound to vfio-pci, as a virtual machine without a disk image.
//!
//! ```text
//!   subscribers ══ cg-int ─ bridge0 ─ tap-int ┐ box namespace ┌ tap-ext ─ bridge1 ─ cg-ext ══ server
//!                                       ┌─────┴───────────────┴─────┐
//!                                       │ guest: cards 10.0 and 11.0 │  stock Debian kernel, IOMMU,
//!                                       │ vfio-pci, cgnat run        │  huge pages, the host's files
//!                                       └───────────────────────────┘
//! ```
//!
//! Invariants (decision 25):
//!
//! 1. what lies outside the guest is the laboratory of all live tests, so the same checks hold;
//! 2. the guest's root is the host's, read-only: it runs the very program that was built here;
//! 3. the kernel is a package that apt fetches; nothing is installed and nothing of the host changes.
//!
//! CPUs are emulated: what is measured here says nothing about speed.

mod cards;
mod deployment;
mod guest;
mod image;

pub use cards::{Card, EXTERNAL_CARD, INTERNAL_CARD, SIBLING};
pub use deployment::{
    Deployment, ask_about, bind, cards, mount_huge_pages, reserve_huge_pages, settings,
};
pub use guest::{Answer, Guest, Job, Machine};
pub use image::Image;
