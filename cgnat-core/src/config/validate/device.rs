//! `ports.<name>.device`: a PCI address, or a virtual device with its arguments.

use super::super::scalar::shown;
use super::super::{Device, keys};

/// Drivers of virtual devices and the arguments that each knows in DPDK 22.11.
const DRIVERS: [(&str, &[&str]); 5] = [
    (
        "net_pcap",
        &[
            "rx_pcap",
            "tx_pcap",
            "rx_iface",
            "rx_iface_in",
            "tx_iface",
            "iface",
            "phy_mac",
            "infinite_rx",
        ],
    ),
    ("net_af_packet", &["iface", "qpairs", "blocksz", "framesz", "framecnt", "qdisc_bypass"]),
    ("net_null", &["size", "copy", "no-rx"]),
    ("net_ring", &["nodeaction", "internal"]),
    ("net_tap", &["iface", "mac", "remote"]),
];

/// Reads a device string.
pub(super) fn device(text: &str) -> Result<Device, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return pci(text);
    }
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let Some((driver, known)) = DRIVERS.iter().find(|(known, _)| *known == driver) else {
        return Err(unknown_driver(name, driver, text));
    };
    if name.len() == driver.len() {
        return Err(format!("{} has no number; expected `{driver}0`", shown(name)));
    }
    if name.len() > 32 {
        return Err(format!("{} is too long; expected `{driver}0`", shown(name)));
    }
    let mut arguments = Vec::new();
    for part in parts {
        arguments.push(argument(part, driver, known)?);
    }
    let has = |keys: &[&str]| arguments.iter().any(|(key, _)| keys.contains(&key.as_str()));
    let needed: &[&str] = match *driver {
        "net_pcap" => &["rx_pcap", "rx_iface", "rx_iface_in", "iface"],
        "net_af_packet" => &["iface"],
        _ => &[],
    };
    if !needed.is_empty() && !has(needed) {
        let example = needed[0];
        return Err(format!("{} receives from nowhere; expected `{example}=...`", shown(name)));
    }
    Ok(Device::Virtual { name: name.to_owned(), driver: (*driver).to_owned(), arguments })
}

fn argument(part: &str, driver: &str, known: &[&str]) -> Result<(String, String), String> {
    let wrong = || format!("{} is not an argument; expected key=value", shown(part));
    let (key, value) = part.split_once('=').ok_or_else(wrong)?;
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(wrong());
    }
    if !known.contains(&key) {
        let known_keys = known.join(", ");
        let expected = match keys::nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of: {known_keys}"),
        };
        return Err(format!("{driver} has no argument {}; {expected}", shown(key)));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn unknown_driver(name: &str, driver: &str, text: &str) -> String {
    if is_short_pci(text) {
        return format!("{} is not a full PCI address; expected `0000:{text}`", shown(text));
    }
    let drivers = DRIVERS.map(|(name, _)| name);
    match keys::nearest(driver, drivers) {
        Some(near) => format!("no driver {}; did you mean `{near}`?", shown(driver)),
        // Most often the name of a Linux interface.
        None if name == text => format!(
            "{} is not a device; expected a PCI address as in 0000:3b:00.0, or for a Linux \
             interface `net_af_packet0,iface={name}`",
            shown(name)
        ),
        None => format!("no driver {}; expected {}", shown(driver), drivers.join(", ")),
    }
}

fn pci(text: &str) -> Result<Device, String> {
    if is_short_pci(text) {
        return Err(format!("{} is not a full PCI address; expected `0000:{text}`", shown(text)));
    }
    if let Some((domain, rest)) = text.split_once(':')
        && is_hex(domain, 4)
        && is_short_pci(rest)
    {
        return Ok(Device::Pci(text.to_ascii_lowercase()));
    }
    Err(format!("{} is not a PCI address; expected the form 0000:3b:00.0", shown(text)))
}

/// `3b:00.0`
fn is_short_pci(text: &str) -> bool {
    let Some((bus, rest)) = text.split_once(':') else { return false };
    let Some((slot, function)) = rest.split_once('.') else { return false };
    let slot_fits = u8::from_str_radix(slot, 16).is_ok_and(|slot| slot < 32);
    let function_fits = matches!(function.as_bytes(), [b'0'..=b'7']);
    is_hex(bus, 2) && is_hex(slot, 2) && slot_fits && function_fits
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_has_its_domain() {
        assert_eq!(device("0000:3B:00.0"), Ok(Device::Pci("0000:3b:00.0".into())));
        for text in ["3b:00.0", "b3:00.0", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "0", ""] {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_virtual_device_keeps_its_arguments_in_order() {
        let read = device("net_pcap3,rx_pcap=a b.pcap,tx_pcap=c=d.pcap");
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let expected = Device::Virtual {
            name: "net_pcap3".into(),
            driver: "net_pcap".into(),
            arguments: vec![pair("rx_pcap", "a b.pcap"), pair("tx_pcap", "c=d.pcap")],
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn a_device_that_cannot_receive_is_refused() {
        for text in ["net_pcap0", "net_af_packet0", "net_pcap0,tx_pcap=a", "net_null", "eth0"] {
            assert!(device(text).is_err(), "{text}");
        }
        assert!(device("net_null0").is_ok() && device("net_tap0,iface=a").is_ok());
    }

    #[test]
    fn an_unknown_driver_or_argument_gets_the_nearest_name() {
        let said = |text: &str| device(text).err().unwrap_or_default();
        assert!(said("net_pacp0,rx_pcap=a").contains("did you mean `net_pcap`"));
        assert!(said("net_pcap0,rx_pacp=a").contains("did you mean `rx_pcap`"));
    }
}
