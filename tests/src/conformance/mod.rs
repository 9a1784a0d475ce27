//! Conformance: each clause of the RFCs that applies to a NAT44, held against the real program.
//!
//! | module | what |
//! | --- | --- |
//! | [`packet`], [`read`] | packets, written and read without the code under test |
//! | [`settings`], [`capture`], [`talk`] | a conversation through `cgnat run` |
//! | [`connection`] | a TCP connection in it |
//! | [`judge`] | what every frame that comes out must be |
//! | [`rows`] | docs/rfc-compliance.md, row by row |
//! | `rfc*` | the cases, by the RFC that they are mostly about |
//!
//! A case is a function that fails with a sentence, and the clauses that it proves. Its name
//! ends with the first of them. `make conformance` runs all and prints a table.

pub mod capture;
pub mod connection;
pub mod judge;
pub mod packet;
pub mod read;
pub mod rows;
pub mod settings;
pub mod talk;

mod fragmentation;
mod other_protocols;
mod rfc1812;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6056;
mod rfc6598;
mod rfc6864;
mod rfc6888;
mod rfc7422;
mod rfc7857;

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use ipnet::Ipv4Net;

/// A case: what it is called, the clauses that it proves, and how.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// A property, ending with its first clause.
    pub name: &'static str,
    /// Numbers of clauses, as docs/rfc-compliance.md has them.
    pub clauses: &'static [&'static str],
    /// Fails if the appliance does something else.
    pub run: fn() -> Result<()>,
}

/// Registers the cases of a module: `name: clauses;`.
macro_rules! register {
    ($($name:ident: $($clause:literal)+;)+) => {
        pub(super) const CASES: &[$crate::conformance::Case] = &[$(
            $crate::conformance::Case {
                name: stringify!($name),
                clauses: &[$($clause),+],
                run: $name,
            }
        ),+];
    };
}
use register;

/// All cases, in order of the RFCs.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [
        rfc1812::CASES,
        rfc4787::CASES,
        rfc5382::CASES,
        rfc5508::CASES,
        fragmentation::CASES,
        rfc6056::CASES,
        rfc6598::CASES,
        rfc6864::CASES,
        rfc6888::CASES,
        rfc7422::CASES,
        rfc7857::CASES,
        other_protocols::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Subscriber number `number`.
fn subscriber(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 7, number)
}

/// A host of the Internet.
fn remote(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number)
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

fn ip(text: &str) -> Ipv4Addr {
    text.trim().parse().expect("cases name addresses that are such")
}

fn net(text: &str) -> Ipv4Net {
    text.trim().parse().expect("cases name prefixes that are such")
}

/// That a packet came out as it must.
fn same(got: &packet::Packet, want: &packet::Packet) -> Result<()> {
    anyhow::ensure!(got == want, "came out:\n  {got:?}\nexpected:\n  {want:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_a_name_of_its_own_that_ends_with_its_first_clause() {
        let mut names = BTreeSet::new();
        for case in super::cases() {
            assert!(names.insert(case.name), "{} twice", case.name);
            let clause =
                case.clauses[0].to_lowercase().replace(['-', '.', '('], "_").replace(')', "");
            assert!(case.name.ends_with(&clause), "{} does not end with {clause}", case.name);
            let clauses: BTreeSet<_> = case.clauses.iter().collect();
            assert_eq!(clauses.len(), case.clauses.len(), "{}", case.name);
        }
        assert!(names.len() > 20);
    }
}
