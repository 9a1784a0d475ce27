//! `ports.<name>.bond`: several devices in the place of one.

use super::super::Device;
use super::super::problem::{At, Report};
use super::super::read::{Cursor, Located};
use super::super::scalar::shown;
use super::{device, refuse_repeated};

/// Members of a bond, least and most.
const MEMBERS: (usize, usize) = (2, 8);

/// Reads a bond; the place is that of its key.
pub(super) fn read(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<Located<Device>> {
    let fields = cursor.fields(report)?;
    let mode = fields.required(report, "mode");
    let mode = mode.and_then(|c| c.choice(report, &["lacp"], &["active-backup"]));
    let listed = fields.required(report, "members")?;
    let items = listed.items(report)?;
    let (least, most) = MEMBERS;
    if !(least..=most).contains(&items.len()) {
        let message = format!("a bond of {}; expected {least} to {most} devices", items.len());
        report.error(&listed.head(), message);
        return None;
    }
    let mut members: Vec<Located<Device>> = Vec::new();
    let mut is_good = true;
    for item in items {
        let member = item.located(report, "a PCI address or net_tap0,iface=...", device::device);
        let Some(member) = member else {
            is_good = false;
            continue;
        };
        if let Some(message) = refusal(&member.value, members.first()) {
            report.error(&member.at, message);
            is_good = false;
        }
        let same = members.iter().filter(|m| m.value.name() == member.value.name());
        let same: Vec<&At> = same.map(|m| &m.at).collect();
        is_good &= same.is_empty();
        refuse_repeated(report, &member.at, &shown(member.value.name()), same);
        members.push(member);
    }
    let name = format!("net_bonding-{}", members.first()?.value.name());
    let members = members.into_iter().map(|member| member.value).collect();
    let value = Device::Bond { name, members };
    (is_good && mode.is_some()).then_some(Located { value, at: cursor.head() })
}

/// Why a device cannot be a member beside the first one.
fn refusal(device: &Device, first: Option<&Located<Device>>) -> Option<String> {
    let driver = |device: &Device| match device {
        Device::Virtual { driver, .. } => Some(driver.clone()),
        Device::Pci(_) | Device::Bond { .. } => None,
    };
    match (driver(device), first.map(|first| driver(&first.value))) {
        (Some(driver), _) if driver == "net_af_packet" => Some(
            "DPDK does not know the link of a packet socket, so a member without one would be sent to; \
             expected a PCI address. Let the kernel bond, and give the port the interface of that bond"
                .to_owned(),
        ),
        (Some(driver), _) if driver != "net_tap" => {
            Some(format!("{driver} has no link that could go; expected PCI addresses"))
        }
        (mine, Some(theirs)) if mine != theirs => {
            let word = |driver: &Option<String>| {
                driver.clone().unwrap_or_else(|| "a PCI device".to_owned())
            };
            Some(format!(
                "this is {} and the first member is {}; expected one kind",
                word(&mine),
                word(&theirs)
            ))
        }
        _ => None,
    }
}
