//! Words of the configuration as values: durations, sizes, CPU lists, addresses, ports, MACs.
//!
//! Each function answers with the value or with a sentence: what is wrong; what was expected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Highest CPU number that Linux and DPDK can be told about here.
const LAST_CPU: u16 = 1023;
/// Most characters of a value that are repeated in a message.
const SHOWN: usize = 48;

/// `text` as it is repeated in a message.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let mut words: String = text.escape_debug().take(SHOWN).collect();
    words = words.replace("\\\"", "\"").replace("\\'", "'");
    if text.escape_debug().nth(SHOWN).is_some() {
        words.push_str("...");
    }
    format!("`{words}`")
}

/// A whole number; `_` may part its digits.
pub(super) fn whole(text: &str) -> Option<u64> {
    let parted = text.split('_').all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if !parted || !text.starts_with(|c: char| c.is_ascii_digit()) || text.ends_with('_') {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// A number and the unit behind it, `("4", "GiB")`.
fn unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// `2h4m`, `10s`, `1d`, `0s`: seconds.
pub(super) fn duration(text: &str) -> Result<u32, String> {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let wrong = || {
        format!(
            "{} is not a duration; expected days, hours, minutes, seconds as in 2h4m",
            shown(text)
        )
    };
    if whole(text).is_some() {
        let shown = shown(text);
        return Err(format!("{shown} has no unit; expected d, h, m or s as in `{text}s`"));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, tail) = unit(rest);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (name, seconds) = units.find(|(name, _)| tail.starts_with(name)).ok_or_else(wrong)?;
        total = total.saturating_add(number.saturating_mul(*seconds));
        rest = &tail[name.len()..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    u32::try_from(total).map_err(|_| format!("{} is too long; expected at most 7d", shown(text)))
}

/// Seconds as they are written: `2h4m`.
pub(super) fn written(seconds: u32) -> String {
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let words: String =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if words.is_empty() { "0s".to_owned() } else { words }
}

/// `4GiB`, `512MiB`: bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{} is not a size; expected KiB, MiB, GiB or TiB as in 4GiB", shown(text));
    let (number, name) = unit(text);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match name.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `2-7,9`: CPUs in the order written; a CPU may come twice.
pub(super) fn cpus(text: &str) -> Result<Vec<u16>, String> {
    let wrong =
        || format!("{} is not a CPU list; expected CPUs and ranges as in \"2-7,9\"", shown(text));
    let cpu = |word: &str| word.trim().parse::<u16>().map_err(|_| wrong());
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (cpu(first)?, cpu(last)?),
            None => (cpu(part)?, cpu(part)?),
        };
        if first > last {
            return Err(format!("{} runs backwards; expected {last}-{first}", shown(part)));
        }
        if last > LAST_CPU {
            return Err(format!("there is no CPU {last}; expected 0 to {LAST_CPU}"));
        }
        list.extend(first..=last);
        if list.len() > usize::from(LAST_CPU) + 1 {
            return Err(format!("{} lists too many CPUs; expected at most 1024", shown(text)));
        }
    }
    Ok(list)
}

/// One IPv4 address.
pub(super) fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| {
        if text.contains(':') {
            format!("{} looks like IPv6, which is not translated; expected IPv4", shown(text))
        } else if text.contains('/') {
            format!("{} is a prefix; expected one address without `/`", shown(text))
        } else {
            format!("{} is not an IPv4 address; expected four numbers 0 to 255", shown(text))
        }
    })
}

/// One IPv6 address.
pub(super) fn address6(text: &str) -> Result<Ipv6Addr, String> {
    text.parse().map_err(|_| {
        if text.contains('/') {
            format!("{} is a prefix; expected one address without `/`", shown(text))
        } else {
            format!("{} is not an IPv6 address; expected one as in 2001:db8::1", shown(text))
        }
    })
}

/// One address of either family.
pub(super) fn any_address(text: &str) -> Result<IpAddr, String> {
    match text.contains(':') {
        true => address6(text).map(IpAddr::V6),
        false => address(text).map(IpAddr::V4),
    }
}

/// An IPv6 address with its prefix length; bits behind the length are kept.
fn with_length6(text: &str, example: &str) -> Result<Ipv6Net, String> {
    let Some((head, length)) = text.split_once('/') else {
        let address = address6(text)?;
        return Err(format!("`{address}` has no prefix length; expected one as in `{example}`"));
    };
    let head = address6(head)?;
    let length: Option<u8> = whole(length).and_then(|n| u8::try_from(n).ok());
    length
        .and_then(|n| Ipv6Net::new(head, n).ok())
        .ok_or_else(|| format!("{} has a wrong prefix length; expected 0 to 128", shown(text)))
}

/// A prefix of either family: no bits set behind its length.
pub(super) fn any_prefix(text: &str) -> Result<IpNet, String> {
    if !text.contains(':') {
        return prefix(text).map(IpNet::V4);
    }
    let net = with_length6(text, "2001:db8:100::/40")?;
    if net.trunc() != net {
        let meant = net.trunc();
        return Err(format!("{} has bits behind its length; expected `{meant}`", shown(text)));
    }
    Ok(IpNet::V6(net))
}

/// The global IPv6 address of an interface with the length of its prefix.
pub(super) fn interface_address6(text: &str) -> Result<Ipv6Net, String> {
    let net = with_length6(text, "2001:db8:1::2/64")?;
    let address = net.addr();
    if address.is_unicast_link_local() {
        return Err(format!(
            "{} is link-local; expected a global one, and `link-local`",
            shown(text)
        ));
    }
    if !is_global_unicast(address) {
        return Err(format!("{} cannot be the address of a host; expected unicast", shown(text)));
    }
    // All routers of a link share it (RFC 4291 section 2.6.1); with 127 bits there is none (RFC 6164).
    if net.prefix_len() < 127 && address == net.network() {
        let net = net.trunc();
        return Err(format!("{} is all routers of {net}; expected a host inside", shown(text)));
    }
    Ok(net)
}

/// A link-local IPv6 address.
pub(super) fn link_local(text: &str) -> Result<Ipv6Addr, String> {
    let address = address6(text)?;
    if address.segments()[..4] != [0xfe80, 0, 0, 0] || address.segments()[4..] == [0; 4] {
        return Err(format!(
            "{} is no link-local address of a host; expected fe80::1",
            shown(text)
        ));
    }
    Ok(address)
}

/// What may be forwarded: no group, not link-local, and neither unspecified, loopback nor one that
/// stands for an IPv4 address inside a host (RFC 4291 section 2.5).
pub(super) fn is_global_unicast(address: Ipv6Addr) -> bool {
    let upper = u128::from(address) >> 32;
    !address.is_multicast() && !address.is_unicast_link_local() && upper != 0 && upper != 0xffff
}

/// An address with its prefix length; bits behind the length are kept.
fn with_length(text: &str, example: &str) -> Result<Ipv4Net, String> {
    let Some((head, length)) = text.split_once('/') else {
        let address = address(text)?;
        return Err(format!("`{address}` has no prefix length; expected one as in `{example}`"));
    };
    let head = address(head)?;
    let length: Option<u8> = whole(length).and_then(|n| u8::try_from(n).ok());
    length
        .and_then(|n| Ipv4Net::new(head, n).ok())
        .ok_or_else(|| format!("{} has a wrong prefix length; expected 0 to 32", shown(text)))
}

/// A prefix: no bits set behind its length.
pub(super) fn prefix(text: &str) -> Result<Ipv4Net, String> {
    let net = with_length(text, "100.64.0.0/10")?;
    if net.trunc() != net {
        let meant = net.trunc();
        return Err(format!("{} has bits behind its length; expected `{meant}`", shown(text)));
    }
    Ok(net)
}

/// The address of an interface with the length of its prefix.
pub(super) fn interface_address(text: &str) -> Result<Ipv4Net, String> {
    let net = with_length(text, "10.255.0.2/30")?;
    let what = if net.prefix_len() > 30 {
        None
    } else if net.addr() == net.network() {
        Some("the network address")
    } else if net.addr() == net.broadcast() {
        Some("the broadcast address")
    } else {
        None
    };
    match what {
        Some(what) => Err(format!(
            "{} is {what} of its prefix; expected a host address inside {}",
            shown(text),
            net.trunc()
        )),
        None if !is_host(net.addr()) => Err(no_host(text)),
        None => Ok(net),
    }
}

/// A host of the network: not 0.0.0.0/8, loopback, multicast or reserved.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

fn no_host(text: &str) -> String {
    format!("{} cannot be the address of a host; expected 1.0.0.0 to 223.255.255.255", shown(text))
}

/// Prefix, `first-last` or one address: first and last address.
pub(super) fn address_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let (first, last) = if text.contains('/') {
        let net = prefix(text)?;
        (net.network(), net.broadcast())
    } else if let Some((first, last)) = text.split_once('-') {
        (address(first.trim())?, address(last.trim())?)
    } else {
        (address(text)?, address(text)?)
    };
    if first > last {
        return Err(format!("{} runs backwards; expected `{last}-{first}`", shown(text)));
    }
    // The first number only grows, but 127 may lie between.
    let crosses = first.octets()[0] < 127 && last.octets()[0] > 127;
    if !is_host(first) || !is_host(last) || crosses {
        return Err(no_host(text));
    }
    Ok((first, last))
}

/// `1024-65535`: first and last port.
pub(super) fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wrong =
        || format!("{} is not a port range; expected first-last as in 1024-65535", shown(text));
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.trim().parse().map_err(|_| wrong())?;
    let last: u16 = last.trim().parse().map_err(|_| wrong())?;
    if first == 0 {
        return Err("port 0 is never lent; expected a range that starts at 1 or above".to_owned());
    }
    if first > last {
        return Err(format!("{} runs backwards; expected {last}-{first}", shown(text)));
    }
    Ok((first, last))
}

/// `5350` or `5350-5351`: first and last port.
pub(super) fn port_or_range(text: &str) -> Result<(u16, u16), String> {
    match whole(text) {
        Some(port @ 1..=65_535) => Ok((port as u16, port as u16)),
        Some(port) => Err(format!("{port} is out of range; expected 1 to 65535")),
        None => port_range(text),
    }
}

/// `02:00:00:00:00:01`: the address of one station.
pub(super) fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || {
        format!("{} is not a MAC address; expected six bytes as in 02:00:00:00:00:01", shown(text))
    };
    let is_hex = |word: &str| word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut bytes = [0u8; 6];
    let mut words = text.split(':');
    for byte in &mut bytes {
        let word = words.next().filter(|w| w.len() == 2 && is_hex(w)).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(word, 16).map_err(|_| wrong())?;
    }
    if words.next().is_some() {
        return Err(wrong());
    }
    if bytes[0] & 1 == 1 || bytes == [0; 6] {
        return Err(format!("{} is not one station; expected a unicast MAC address", shown(text)));
    }
    Ok(bytes)
}

/// A name that is printed in tables and used as a label.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=32).contains(&text.len()) && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a name; expected 1 to 32 of A-Z a-z 0-9 . _ -", shown(text)))
}

/// The name of an interface in the kernel.
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // The kernel has room for 15; a dot or a dash in front reads like something else.
    if (1..=15).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(['.', '-']) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not the name of an interface; expected 1 to 15 of a-z A-Z 0-9 . _ - with a letter or \
         digit first",
        shown(text)
    ))
}

/// The name of the instance; the runtime directory is called after it.
pub(super) fn instance_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    // A first dot would hide the files or climb out of the directory.
    if (1..=32).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(['.', '-']) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not an instance name; expected 1 to 32 of a-z 0-9 . - with a letter or digit first",
        shown(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_and_are_written_back() {
        for (text, seconds) in [("2h4m", 7440), ("10s", 10), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(seconds));
        }
        for text in ["", "4", "m", "4m2h", "4x", "-1s", "1h1h", "1.5h", "99999999d", "4m ", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(written(7440), "2h4m");
        assert_eq!(written(0), "0s");
    }

    #[test]
    fn sizes_need_a_binary_unit_and_do_not_overflow() {
        assert_eq!(size("4GiB"), Ok(4 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        for text in ["4", "4GB", "GiB", "-4GiB", "99999999999TiB", "4gib"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists_keep_order_and_repetition() {
        assert_eq!(cpus("2-4,9,2"), Ok(vec![2, 3, 4, 9, 2]));
        for text in ["", "a", "4-2", "1024", "1,,2", "1-", "70000", "-1"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_digits_that_underscores_may_part() {
        assert_eq!(whole("1_000_000"), Some(1_000_000));
        for text in ["", "_1", "1_", "0x10", "1e3", "-1", "99999999999999999999"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes_have_no_bits_behind_their_length() {
        assert_eq!(prefix("100.64.0.0/10").map(|p| p.to_string()), Ok("100.64.0.0/10".into()));
        for text in ["100.64.0.1/10", "100.64.0.0", "1.2.3.0/33", "1.2.3/24", "::/0", "1.2.3.4/"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ipv6_addresses_and_prefixes_are_what_they_are_for() {
        assert!(interface_address6("2001:db8::1/64").is_ok());
        assert!(interface_address6("2001:db8::/127").is_ok());
        for text in
            ["2001:db8::1", "2001:db8::/64", "fe80::1/64", "ff02::1/64", "::1/128", "1.2.3.4/8"]
        {
            assert!(interface_address6(text).is_err(), "{text}");
        }
        for text in ["2001:db8::1/129", "2001:db8::1/x", "2001:db8:1/64", "::ffff:1.2.3.4/128"] {
            assert!(interface_address6(text).is_err(), "{text}");
        }
        assert!(any_prefix("2001:db8::/32").is_ok() && any_prefix("::/0").is_ok());
        assert!(any_prefix("100.64.0.0/10").is_ok());
        assert!(any_prefix("2001:db8::1/32").is_err() && any_prefix("2001:db8::").is_err());
        assert!(link_local("fe80::1").is_ok());
        for text in ["fe80::", "fe80:1::1", "2001:db8::1", "fe80::1/64", "fe80::1%eth0"] {
            assert!(link_local(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interface_addresses_are_hosts_of_their_prefix() {
        for text in ["10.255.0.2/30", "10.0.0.0/31", "10.0.0.7/32"] {
            assert!(interface_address(text).is_ok(), "{text}");
        }
        for text in ["10.255.0.0/30", "10.255.0.3/30", "127.0.0.1/8", "0.0.0.1/0", "10.0.0.1"] {
            assert!(interface_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_prefixes_pairs_or_single_addresses() {
        let pair = |a: [u8; 4], b: [u8; 4]| Ok((Ipv4Addr::from(a), Ipv4Addr::from(b)));
        assert_eq!(address_range("203.0.113.0/28"), pair([203, 0, 113, 0], [203, 0, 113, 15]));
        assert_eq!(address_range("1.1.1.1-1.1.1.3"), pair([1, 1, 1, 1], [1, 1, 1, 3]));
        assert_eq!(address_range("1.1.1.1"), pair([1, 1, 1, 1], [1, 1, 1, 1]));
        for text in ["1.1.1.3-1.1.1.1", "0.0.0.0/0", "224.0.0.1", "126.0.0.1-128.0.0.1", "-"] {
            assert!(address_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn port_zero_is_not_in_any_range() {
        assert_eq!(port_range("1-65535"), Ok((1, 65535)));
        for text in ["0-100", "5", "9-1", "1-65536", "a-b", "-"] {
            assert!(port_range(text).is_err(), "{text}");
        }
        assert_eq!(port_or_range("3389"), Ok((3389, 3389)));
        assert_eq!(port_or_range("5350-5351"), Ok((5350, 5351)));
        for text in ["0", "65536", "-1", "", "5351-5350", "a"] {
            assert!(port_or_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mac_is_six_bytes_of_one_station() {
        assert_eq!(mac("02:00:00:00:00:0a"), Ok([2, 0, 0, 0, 0, 10]));
        for text in ["", "02:00", "03:00:00:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1"] {
            assert!(mac(text).is_err(), "{text}");
        }
        assert!(mac("02:00:00:00:00:01:02").is_err());
        assert!(mac("+2:00:00:00:00:01").is_err());
    }

    #[test]
    fn names_cannot_hide_or_climb() {
        assert!(name("residential_2.a").is_ok());
        assert!(name("a b").is_err() && name("").is_err() && name("a/b").is_err());
        assert!(instance_name("cgn1.ams").is_ok());
        assert!(instance_name("..").is_err() && instance_name("Cgn").is_err());
    }

    #[test]
    fn a_long_value_is_cut_in_messages() {
        assert_eq!(shown("a\u{1b}b"), "`a\\u{1b}b`");
        assert!(shown(&"x".repeat(500)).len() < 60);
    }
}
