//! The laboratory: what needs more than one crate, a kernel, or somebody else's program.
//!
//! | module | what |
//! | --- | --- |
//! | [`lab`] | three network namespaces joined by veths; the kernel's own NAT as a partner |
//! | [`switch`] | VLANs: hosts behind a switch that puts their tags on |
//! | [`partner`] | Open vSwitch at the other end of a bond |
//! | [`process`] | child processes with a bound on every wait |
//! | [`cleanup`] | what was made is removed, also on a signal |
//! | [`appliance`] | `cgnat run` inside the laboratory |
//! | [`command_line`], [`reports`] | what the programs below have in common |
//! | [`stats`] | the statistics that the appliance writes |
//! | [`traffic`] | real clients and servers: curl, busybox httpd, dig, dnsmasq, ping, iperf3, tcpdump |
//! | [`live`] | what must go through any appliance, all of it |
//! | [`judges`] | programs that find out what a NAT does: natdiscovery, tracepath, ping with options |
//! | [`pings`] | pings at an even rate, none of which may be lost |
//! | [`file_transfer`] | FTP and TFTP: vsftpd, dnsmasq, curl |
//! | [`pptp`] | PPTP: pptpd, pptp, and calls whose identifiers are chosen |
//! | [`connect_test`] | very many TCP connections, each checked for mix-ups: `cgnat connect-test` |
//! | [`callgrind`] | instructions by function, and what has been counted before |
//! | [`cpu`] | how much of a CPU the threads of a process take |
//! | [`huge_pages`] | huge pages for as long as somebody wants them |
//! | [`figures`] | samples of a measurement, and stolen time |
//! | [`leases`] | 20,000 DHCP relays that renew their leases |
//! | [`flood`], [`steady`], [`told`], [`ordeal`] | attacks, flows that have to survive them, what comes back |
//! | [`routed`] | two appliances between two routers, with FRR or BIRD beside each |
//! | [`vm`] | a machine with network cards bound to vfio-pci, and the appliance on them |
//! | [`conformance`] | clauses of the RFCs, each a conversation through the appliance |
//! | [`decode`] | translated captures read by tshark and checked against the rules of the NAT |
//!
//! Nothing here depends on the crates under test: the laboratory sees the appliance as a user
//! does, by its command line, its packets and its statistics.

pub mod appliance;
pub mod callgrind;
pub mod cleanup;
pub mod command_line;
pub mod conformance;
pub mod connect_test;
pub mod cpu;
pub mod decode;
pub mod figures;
pub mod file_transfer;
pub mod flood;
pub mod hairpin_storm;
pub mod huge_pages;
pub mod ipv6;
pub mod judges;
pub mod lab;
pub mod leases;
pub mod live;
pub mod ordeal;
pub mod partner;
pub mod pings;
pub mod pptp;
pub mod process;
pub mod reports;
pub mod routed;
pub mod stats;
pub mod steady;
pub mod switch;
pub mod told;
pub mod traffic;
pub mod vm;
