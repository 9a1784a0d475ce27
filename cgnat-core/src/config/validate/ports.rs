//! `ports` and `routes`: devices, addresses, next hops, static neighbours.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::super::problem::{At, Report};
use super::super::read::{Cursor, Fields, Located};
use super::super::scalar::{self, shown};
use super::super::{Device, Ipv6Route, MOST_MTU, Port, Route, Side, frames};
use super::{bond, device, ipv6, refuse_repeated, unknown_name};
use crate::packet::ethernet::{self, Tags};

const MAX_PORTS: usize = 32;
const MAX_ROUTES: usize = 256;

/// What could be read of one port.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Located<String>,
    pub(super) side: Option<Side>,
    pub(super) device: Option<Located<Device>>,
    pub(super) addresses: Vec<Located<Ipv4Net>>,
    /// Some address could not be read: what is on-link is not known.
    has_bad_address: bool,
    pub(super) next_hop: Option<Located<Ipv4Addr>>,
    /// A next hop is given, well or badly.
    pub(super) has_next_hop: bool,
    pub(super) tags: Tags,
    mtu: u16,
    neighbours: Vec<Located<(Ipv4Addr, [u8; 6])>>,
    pub(super) kernel_interface: Option<Located<String>>,
    pub(super) routes_from_kernel: bool,
    pub(super) ipv6: Option<ipv6::Draft>,
    /// `ipv6` is given, well or badly.
    pub(super) has_ipv6: bool,
}

impl Draft {
    /// The validated port; `None` if an error was reported for it.
    pub(super) fn finish(self) -> Option<Port> {
        Some(Port {
            name: self.name.value,
            side: self.side?,
            device: self.device?.value,
            tags: self.tags,
            addresses: self.addresses.into_iter().map(|a| a.value).collect(),
            next_hop: self.next_hop.map(|n| n.value),
            mtu: self.mtu,
            neighbours: self.neighbours.into_iter().map(|n| n.value).collect(),
            kernel_interface: self.kernel_interface.map(|name| name.value),
            routes_from_kernel: self.routes_from_kernel,
            ipv6: self.ipv6.map(ipv6::Draft::finish),
        })
    }

    /// Why `address` cannot be a neighbour on this port, if it cannot.
    fn refusal(&self, address: Ipv4Addr) -> Option<String> {
        let nets = || self.addresses.iter().map(|a| &a.value);
        if nets().any(|net| net.addr() == address) {
            return Some(format!("{address} is this port's own address; expected a neighbour"));
        }
        let edge = |net: &&Ipv4Net| {
            net.prefix_len() < 31 && (net.network() == address || net.broadcast() == address)
        };
        if let Some(net) = nets().find(edge) {
            let net = net.trunc();
            return Some(format!("{address} is the first or last of {net}; expected a host"));
        }
        if self.has_bad_address || nets().any(|net| net.contains(&address)) {
            return None;
        }
        let prefixes: Vec<String> = nets().map(|net| net.trunc().to_string()).collect();
        let prefixes = prefixes.join(", ");
        Some(format!("{address} is not on-link; expected an address inside {prefixes}"))
    }
}

/// Reads all ports.
pub(super) fn read(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Vec<Draft> {
    let entries = cursor.entries(report, "<name>").unwrap_or_default();
    if entries.len() > MAX_PORTS {
        report.error(&cursor.head(), format!("{} ports; expected at most 32", entries.len()));
    }
    let mut ports = Vec::new();
    for (key, cursor) in entries {
        if let Err(message) = scalar::name(&key.text) {
            report.error(&cursor.head(), message);
        }
        let name = Located { value: key.text.clone(), at: cursor.head() };
        ports.extend(port(report, name, &cursor));
    }
    ports
}

fn port(report: &mut Report<'_>, name: Located<String>, cursor: &Cursor<'_>) -> Option<Draft> {
    let fields = cursor.fields(report)?;
    let side = fields.required(report, "side");
    let side = side.and_then(|c| c.choice(report, &["internal", "external"], &[]));
    let side = side.map(|word| if word == "internal" { Side::Internal } else { Side::External });
    let device = match (fields.get("device"), fields.get("bond")) {
        (Some(_), Some(cursor)) => {
            let message = "the port has a `device` already; expected one of them";
            report.error(&cursor.head(), message);
            None
        }
        (None, Some(cursor)) => bond::read(report, cursor),
        _ => fields
            .required(report, "device")
            .and_then(|c| c.located(report, "a PCI address or a virtual device", device::device)),
    };
    let is_tpid_hidden = device.as_ref().is_some_and(|d| frames::is_packet_socket(&d.value));
    let tags = tags(report, &fields, is_tpid_hidden);
    let mtu = fields.get("mtu").and_then(|c| c.whole(report, 576, MOST_MTU.into()));
    let mtu = mtu.unwrap_or(1500) as u16;
    if let Some(Located { value, at }) = &device
        && let Some(message) = frames::ring_refusal(value, mtu)
    {
        report.error(at, message);
    }

    let kernel_interface = fields
        .get("kernel-interface")
        .and_then(|c| c.located(report, "the name of an interface", scalar::interface_name));
    if let (Some(Located { at, .. }), Some(Located { value: Device::Virtual { driver, .. }, .. })) =
        (&kernel_interface, &device)
        && driver == "net_pcap"
    {
        report.error(at, "a port that replays a capture talks to nobody; expected no interface");
    }

    let follows = fields.get("routes-from-kernel");
    let routes_from_kernel = follows.and_then(|c| c.flag(report)).unwrap_or(false);
    if let Some(cursor) = follows
        && routes_from_kernel
        && fields.get("kernel-interface").is_none()
    {
        let message = "the port has no `kernel-interface`, so the kernel has no routes by it; \
                       expected one, or `false`";
        report.error(cursor.at(), message);
    }

    let mut draft = Draft {
        name,
        side,
        device,
        addresses: Vec::new(),
        has_bad_address: false,
        next_hop: None,
        has_next_hop: fields.get("next-hop").is_some(),
        tags,
        mtu,
        neighbours: Vec::new(),
        kernel_interface,
        routes_from_kernel,
        ipv6: fields.get("ipv6").and_then(|c| ipv6::read(report, c, side, mtu)),
        has_ipv6: fields.get("ipv6").is_some(),
    };
    let listed = fields.required(report, "addresses");
    let (one, parse) = ("an address as in 10.255.0.2/30", scalar::interface_address);
    (draft.addresses, draft.has_bad_address) = addresses(report, listed, one, parse, Ipv4Net::addr);
    if let Some(cursor) = fields.get("next-hop") {
        let read = cursor.located(report, "one IPv4 address", scalar::address);
        draft.next_hop = read.filter(|hop| is_neighbour(report, &draft, hop.value, &hop.at));
    }
    if let Some(cursor) = fields.get("neighbours") {
        neighbours(report, cursor, &mut draft);
    }
    Some(draft)
}

/// The tags of a port. `is_tpid_hidden`: its device does not show the outer one's TPID.
fn tags(report: &mut Report<'_>, fields: &Fields<'_>, is_tpid_hidden: bool) -> Tags {
    let mut id = |key| fields.get(key).and_then(|c| c.whole(report, 1, 4094)).map(|n| n as u16);
    let (inner, outer) = (id("vlan"), id("outer-vlan"));
    let tpids = [
        ("0x88a8", ethernet::SERVICE),
        ("0x8100", ethernet::DOT1Q),
        ("0x9100", ethernet::OLD_SERVICE),
    ];
    let tpid =
        fields.get("outer-tpid").and_then(|c| c.choice(report, &tpids.map(|(word, _)| word), &[]));
    let tpid = tpids
        .iter()
        .find(|(word, _)| Some(*word) == tpid)
        .map_or(ethernet::SERVICE, |(_, tpid)| *tpid);
    for (key, other, what) in
        [("outer-vlan", "vlan", "the inner tag"), ("outer-tpid", "outer-vlan", "the outer tag")]
    {
        if let Some(cursor) = fields.get(key)
            && fields.get(other).is_none()
        {
            let message = format!("the port has no `{other}`; expected the id of {what}");
            report.error(cursor.at(), message);
        }
    }
    match (outer, inner) {
        (Some(outer), Some(inner)) => Tags::Two { tpid, is_tpid_hidden, outer, inner },
        (None, Some(id)) => Tags::One(id),
        (_, None) => Tags::None,
    }
}

/// The addresses of a port, of either family, each with its prefix; and whether one was bad.
/// `expected` and `parse` are for one, `bare` is it without its prefix.
pub(super) fn addresses<N, A: PartialEq + Display>(
    report: &mut Report<'_>,
    cursor: Option<&Cursor<'_>>,
    expected: &str,
    parse: impl Fn(&str) -> Result<N, String>,
    bare: fn(&N) -> A,
) -> (Vec<Located<N>>, bool) {
    let mut addresses: Vec<Located<N>> = Vec::new();
    let Some(cursor) = cursor else { return (addresses, true) };
    let Some(items) = cursor.items(report) else { return (addresses, true) };
    let mut has_bad = items.is_empty();
    if has_bad {
        report.error(&cursor.head(), "the list is empty; expected at least one address");
    }
    for item in items {
        let Some(address) = item.located(report, expected, &parse) else {
            has_bad = true;
            continue;
        };
        let same = addresses.iter().filter(|a| bare(&a.value) == bare(&address.value));
        let what = format!("address {}", bare(&address.value));
        refuse_repeated(report, &address.at, &what, same.map(|a| &a.at));
        addresses.push(address);
    }
    (addresses, has_bad)
}

fn neighbours(report: &mut Report<'_>, cursor: &Cursor<'_>, draft: &mut Draft) {
    for item in cursor.items(report).unwrap_or_default() {
        let Some(fields) = item.fields(report) else { continue };
        let address = fields
            .required(report, "address")
            .and_then(|c| c.located(report, "one address", scalar::any_address));
        let mac = fields
            .required(report, "mac")
            .and_then(|c| c.parse(report, "a MAC address", scalar::mac));
        let (Some(Located { value, at }), Some(mac)) = (address, mac) else { continue };
        let value = match value {
            IpAddr::V4(value) => value,
            IpAddr::V6(value) => {
                match &mut draft.ipv6 {
                    Some(ipv6) => ipv6.add_neighbour(report, Located { value: (value, mac), at }),
                    // One that could not be read was reported.
                    None if draft.has_ipv6 => {}
                    None => report.error(&at, "the port has no `ipv6`; expected an IPv4 address"),
                }
                continue;
            }
        };
        if !is_neighbour(report, draft, value, &at) {
            continue;
        }
        let same = draft.neighbours.iter().filter(|n| n.value.0 == value);
        refuse_repeated(report, &at, &format!("neighbour {value}"), same.map(|n| &n.at));
        draft.neighbours.push(Located { value: (value, mac), at });
    }
}

fn is_neighbour(report: &mut Report<'_>, port: &Draft, address: Ipv4Addr, at: &At) -> bool {
    let refusal = port.refusal(address);
    if let Some(message) = &refusal {
        report.error(at, message.as_str());
    }
    refusal.is_none()
}

/// Routes of both families.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) ipv4: Vec<Located<Route>>,
    pub(super) ipv6: Vec<Located<Ipv6Route>>,
}

/// Reads the routes; `ports` are all ports.
pub(super) fn routes(report: &mut Report<'_>, cursor: &Cursor<'_>, ports: &[Draft]) -> Routes {
    let items = cursor.items(report).unwrap_or_default();
    if items.len() > MAX_ROUTES {
        let message = format!("{} routes; expected at most {MAX_ROUTES}", items.len());
        report.error(&cursor.head(), message);
    }
    let mut routes = Routes::default();
    // Destination and side of each, and where it stands.
    let mut seen: Vec<(IpNet, Option<Side>, At)> = Vec::new();
    for item in items {
        let Some((to, port, at)) = route(report, &item, ports, &mut routes) else { continue };
        let side = ports[port].side;
        let same = seen.iter().filter(|(other, of, _)| (*other, *of) == (to, side));
        refuse_repeated(report, &at, &format!("a route to {to} on this side"), same.map(|s| &s.2));
        seen.push((to, side, at));
    }
    routes
}

/// Reads one; destination, port and place if it is added to `routes`.
fn route(
    report: &mut Report<'_>,
    item: &Cursor<'_>,
    ports: &[Draft],
    routes: &mut Routes,
) -> Option<(IpNet, usize, At)> {
    let fields = item.fields(report)?;
    let to = fields
        .required(report, "to")
        .and_then(|c| c.located(report, "a prefix as in 100.96.0.0/11", scalar::any_prefix));
    let via = fields
        .required(report, "via")
        .and_then(|c| c.located(report, "one address", scalar::any_address));
    let port = fields
        .required(report, "port")
        .and_then(|c| c.located(report, "the name of a port", |text| Ok(text.to_owned())));
    let port = port.and_then(|Located { value, at }| {
        let found = ports.iter().position(|p| p.name.value == value);
        // Without any port that is the problem, and it is reported there.
        if found.is_none() && !ports.is_empty() {
            let names = ports.iter().map(|p| p.name.value.as_str());
            report.error(&at, unknown_name("port", &value, names));
        }
        found
    });
    let (to, via, port) = (to?, via?, port?);
    let added = (to.value, port, to.at.clone());
    match (to.value, via.value) {
        (IpNet::V4(net), IpAddr::V4(next_hop)) => {
            if !is_neighbour(report, &ports[port], next_hop, &via.at) {
                return None;
            }
            if ports[port].has_next_hop && net.prefix_len() == 0 {
                let name = shown(&ports[port].name.value);
                let message = format!("port {name} has a next hop already; expected only one");
                report.error(&to.at, message);
            }
            routes.ipv4.push(Located { value: Route { to: net, via: next_hop, port }, at: to.at });
        }
        (IpNet::V6(net), IpAddr::V6(next_hop)) => {
            let (to, via) =
                (Located { value: net, at: to.at }, Located { value: next_hop, at: via.at });
            routes.ipv6.push(ipv6::route(report, to, via, ports, port)?);
        }
        (IpNet::V4(_), IpAddr::V6(_)) => {
            report.error(&via.at, format!("{} is IPv6 and `to` is not; expected IPv4", via.value));
            return None;
        }
        (IpNet::V6(_), IpAddr::V4(_)) => {
            report.error(&via.at, format!("{} is IPv4 and `to` is not; expected IPv6", via.value));
            return None;
        }
    }
    Some(added)
}
