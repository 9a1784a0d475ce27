//! Source addresses as an operator writes them, and whether this host has them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Most source addresses of one run.
const MOST: usize = 1 << 20;

/// Addresses from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let address = |text: &str| {
            let parsed = text.trim().parse::<Ipv4Addr>();
            parsed.map(u32::from).map_err(|_| {
                format!(
                    "{text:?} is not an IPv4 address; sources are written as 100.64.0.1, \
                     100.64.0.1-100.64.0.50 or 100.64.0.0/26"
                )
            })
        };
        let (first, last) = if let Some((network, bits)) = text.split_once('/') {
            let network = address(network)?;
            let bits = bits.parse::<u32>().ok().filter(|bits| *bits <= 32);
            let bits = bits.ok_or_else(|| format!("{text:?}: a prefix has 0 to 32 bits"))?;
            let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
            if network & hosts != 0 {
                let begins = Ipv4Addr::from(network & !hosts);
                return Err(format!("{text:?}: this prefix begins at {begins}"));
            }
            (network, network | hosts)
        } else if let Some((first, last)) = text.split_once('-') {
            (address(first)?, address(last)?)
        } else {
            (address(text)?, address(text)?)
        };
        if first > last {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Range { first, last })
    }
}

/// All addresses of `ranges` and of the lines of `file`, in order.
///
/// # Errors
/// The file cannot be read, a line is no range (with its number), or there are too many.
pub fn addresses(ranges: &[Range], file: Option<&Path>) -> Result<Vec<Ipv4Addr>> {
    let mut ranges = ranges.to_vec();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read source addresses from {}", path.display()))?;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            match line.trim().parse() {
                Ok(range) => ranges.push(range),
                Err(wrong) => bail!("{}:{number}: {wrong}", path.display()),
            }
        }
        ensure!(!ranges.is_empty(), "{} has no source addresses", path.display());
    }
    let count: u64 = ranges.iter().map(|range| u64::from(range.last - range.first) + 1).sum();
    ensure!(count <= MOST as u64, "{count} source addresses; at most {MOST} are used in one run");
    Ok(ranges.iter().flat_map(|range| range.first..=range.last).map(Ipv4Addr::from).collect())
}

/// Finds out before the first connection whether each of `sources` can be one.
///
/// # Errors
/// The first that cannot, and what to do.
pub fn check(sources: &[Ipv4Addr]) -> Result<()> {
    for source in sources {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
            .context("cannot make a TCP socket")?;
        let bound = socket.bind(&SocketAddr::V4(SocketAddrV4::new(*source, 0)).into());
        bound.with_context(|| {
            format!(
                "{source} cannot be a source: this host must have the address (`ip address add \
                 {source}/32 dev lo`, and a route back to it from the NAT)"
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<String>, String> {
        let addresses = addresses(&[text.parse::<Range>()?], None).map_err(|e| e.to_string())?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn sources_are_addresses_ranges_and_prefixes() {
        assert_eq!(all("10.0.0.9"), Ok(vec!["10.0.0.9".into()]));
        assert_eq!(all("10.0.0.255-10.0.1.0"), Ok(vec!["10.0.0.255".into(), "10.0.1.0".into()]));
        assert_eq!(all("10.0.0.2/31"), Ok(vec!["10.0.0.2".into(), "10.0.0.3".into()]));
        assert_eq!(all("10.0.0.2/32"), Ok(vec!["10.0.0.2".into()]));
    }

    #[test]
    fn what_is_wrong_with_a_source_is_said() {
        for (text, says) in [
            ("10.0.0", "is not an IPv4 address"),
            ("10.0.0.2-", "is not an IPv4 address"),
            ("10.0.0.2-10.0.0.1", "ends before it begins"),
            ("10.0.0.1/31", "begins at 10.0.0.0"),
            ("10.0.0.0/33", "0 to 32 bits"),
            ("10.0.0.0/8", "16777216 source addresses"),
            ("0.0.0.0/0", "4294967296 source addresses"),
        ] {
            let wrong = all(text).expect_err(text);
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    }

    #[test]
    fn a_file_of_sources_names_its_wrong_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sources");
        std::fs::write(&path, "10.0.0.1\n\n10.0.0.4/31\n").expect("written");
        assert_eq!(addresses(&[], Some(&path)).expect("good").len(), 3);
        std::fs::write(&path, "10.0.0.1\n\nhello\n").expect("written");
        let wrong = addresses(&[], Some(&path)).expect_err("line 3").to_string();
        assert!(wrong.contains("sources:3: \"hello\" is not"), "{wrong}");
        std::fs::write(&path, "\n").expect("written");
        let wrong = addresses(&[], Some(&path)).expect_err("nothing").to_string();
        assert!(wrong.contains("has no source addresses"), "{wrong}");
    }

    #[test]
    fn an_address_that_this_host_lacks_is_named_before_anything_starts() {
        check(&[Ipv4Addr::LOCALHOST]).expect("every host has it");
        let wrong = check(&[Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 77)]).expect_err("lacks");
        assert!(wrong.to_string().contains("ip address add 192.0.2.77/32"), "{wrong}");
    }
}
