//! Which features of a Linux interface are on, by the names of `ethtool -k`, asked by generic netlink
//! (the family `ethtool` of Linux 5.6 and later).

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, ErrorContext, NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlaBuffer, NlasIterator, ParseableParametrized, parse_string,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// Bytes of an answer: four sets of features, each with its name.
const ANSWER: usize = 64 * 1024;

const COMMAND: u8 = 11;
const VERSION: u8 = 1;

// Attributes of the family, of its request header and of its sets of bits.
const HEADER: u16 = 1;
const ACTIVE: u16 = 4;
const HEADER_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;

/// Names of the features of an interface that are on, in the network namespace of this thread.
///
/// # Errors
/// There is no such interface, or the kernel does not know this way to ask.
pub fn features(interface: &str) -> io::Result<Vec<String>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = GenlCtrlAttrs::FamilyName(Features::family_name().to_owned());
    let family = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
    let family: GenlCtrl = ask(&socket, GenlMessage::from_payload(family))?;
    let number = family.nlas.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(number) => Some(*number),
        _ => None,
    });
    let number = number.ok_or_else(|| invalid("the family has no number"))?;
    let mut question = GenlMessage::from_payload(Features::Of(interface.to_owned()));
    question.set_resolved_family_id(number);
    match ask(&socket, question)? {
        Features::Active(names) => Ok(names),
        Features::Of(_) => Err(invalid("a question as an answer")),
    }
}

/// Asks, and waits for the answer, which the kernel gives before the request returns.
fn ask<F>(socket: &Socket, question: GenlMessage<F>) -> io::Result<F>
where
    GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<GenlMessage<F>>: From<GenlMessage<F>>,
    F: std::fmt::Debug,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(question));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    match NetlinkMessage::<GenlMessage<F>>::deserialize(&answer).map_err(invalid)?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message.into_parts().1),
        NetlinkPayload::Error(said) => Err(said.to_io()),
        _ => Err(invalid("neither an answer nor an error")),
    }
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// A message of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Features {
    /// Asks about an interface.
    Of(String),
    /// Those that are on.
    Active(Vec<String>),
}

impl Features {
    /// The attribute that says which interface is meant.
    fn header(&self) -> DefaultNla {
        let Features::Of(interface) = self else { unreachable!("only questions are sent") };
        let mut name = interface.clone().into_bytes();
        name.push(0);
        let name = DefaultNla::new(HEADER_NAME, name);
        let mut nested = vec![0; name.buffer_len()];
        name.emit(&mut nested);
        DefaultNla::new(HEADER | NLA_F_NESTED, nested)
    }
}

impl GenlFamily for Features {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        COMMAND
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Features {
    fn buffer_len(&self) -> usize {
        self.header().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.header().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Features {
    fn parse_with_param(answer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let active = attribute(answer, ACTIVE)?.unwrap_or_default();
        let bits = attribute(active, BITSET_BITS)?.unwrap_or_default();
        let mut names = Vec::new();
        for bit in NlasIterator::new(bits) {
            let bit = bit.context("a feature")?;
            if let Some(name) = attribute(bit.value(), BIT_NAME)? {
                names.push(parse_string(name).context("the name of a feature")?);
            }
        }
        Ok(Features::Active(names))
    }
}

/// The value of the first attribute of a kind.
fn attribute(attributes: &[u8], kind: u16) -> Result<Option<&[u8]>, DecodeError> {
    for one in NlasIterator::new(attributes) {
        let one: NlaBuffer<&[u8]> = one.context("an attribute")?;
        if one.kind() == kind {
            let end = usize::from(one.length());
            return Ok(one.into_inner().get(NLA_HEADER_SIZE..end));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_segments_and_nothing_is_known_of_one_that_is_not_there() {
        let on = features("lo").expect("Linux 5.6 or later");
        assert!(on.iter().any(|name| name == "tx-tcp-segmentation"), "{on:?}");
        assert!(!on.iter().any(|name| name == "rx-vlan-hw-parse"), "{on:?}");
        let error = features("not-there").expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(19), "{error}");
    }
}
