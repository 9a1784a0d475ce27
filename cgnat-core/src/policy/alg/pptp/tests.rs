use super::*;

const EXTERNAL: u16 = 5000;

/// A message with two words behind its header, and ones.
fn said(kind: u16, first: u16, second: u16) -> Vec<u8> {
    let length = LENGTHS[usize::from(kind) - 1];
    let words = [length, 1, 0x1a2b, 0x3c4d, kind, 0, first, second];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    message.resize(usize::from(length), 1);
    message
}

/// A dialog whose two sides begin at `first` and have agreed to talk.
fn talking(first: u32) -> Dialog {
    let mut dialog = Dialog::new((first, first), EXTERNAL);
    dialog.take(Sender::Internal, &said(kind::START_REQUEST, 0, 0));
    dialog.take(Sender::External, &said(kind::START_REPLY, 0, 0x0100));
    dialog
}

#[test]
fn a_call_needs_both_sides_and_messages_may_come_in_one_segment() {
    for first in [0, 5, u32::MAX - 200, u32::MAX - 170] {
        let mut dialog = talking(first);
        let both = [said(5, 0, 0), said(kind::OUTGOING_CALL_REQUEST, 7, 0)].concat();
        assert_eq!((dialog.take(Sender::Internal, &both), dialog.call()), (0, None));
        let reply = said(kind::OUTGOING_CALL_REPLY, 9, EXTERNAL);
        let both = [reply, said(kind::CALL_DISCONNECT_NOTIFY, 9, 0)].concat();
        assert_eq!(dialog.take(Sender::External, &both[..32]), 0);
        assert_eq!(dialog.call(), Some(Call { client: 7, server: 9 }));
        assert_eq!(dialog.ahead(Sender::External, first.wrapping_add(156 + 32)), 0);
        dialog.take(Sender::External, &both[32..]);
        assert_eq!((dialog.call(), dialog.is_over()), (None, false));
    }
}

#[test]
fn what_was_replaced_is_known_by_its_place_byte_by_byte() {
    for first in [0, u32::MAX - 156 - 12, u32::MAX - 156 - 13] {
        let mut dialog = talking(first);
        dialog.take(Sender::Internal, &said(kind::OUTGOING_CALL_REQUEST, 7, 0));
        let place = first.wrapping_add(156 + 12);
        let at = |from: u32, length: usize| -> Vec<(usize, u8)> {
            dialog.replaced(Sender::Internal, from, length).collect()
        };
        let [high, low] = EXTERNAL.to_be_bytes();
        assert_eq!(at(place.wrapping_sub(3), 5), [(3, high), (4, low)]);
        assert_eq!(at(place.wrapping_sub(3), 4), [(3, high)]);
        assert_eq!(at(place.wrapping_add(1), 9), [(0, low)]);
        assert_eq!(at(place.wrapping_add(2), 9), []);
        assert_eq!(at(place.wrapping_sub(9), 9), []);
        assert_eq!(dialog.replaced(Sender::External, place, 9).count(), 0);
    }
}

#[test]
fn places_are_bounded_and_given_up_once_acknowledged() {
    let fill = |dialog: &mut Dialog| {
        for _ in 0..PLACES / 2 {
            dialog.take(Sender::Internal, &said(kind::OUTGOING_CALL_REQUEST, 7, 0));
            dialog.take(Sender::Internal, &said(kind::CALL_CLEAR_REQUEST, 7, 0));
        }
    };
    let mut dialog = talking(u32::MAX - 300);
    fill(&mut dialog);
    assert!(!dialog.is_settled(Sender::Internal) && !dialog.is_over());
    let sent = (u32::MAX - 300).wrapping_add(156 + 2 * (168 + 16));
    // More than was ever sent counts for nothing.
    dialog.acknowledge(Sender::External, sent.wrapping_add(1));
    assert!(!dialog.is_settled(Sender::Internal));
    let mut full = dialog;
    fill(&mut full);
    assert!(full.is_over());
    assert_eq!(full.replaced(Sender::Internal, u32::MAX - 300, 2_000).count(), 2 * PLACES);
    dialog.acknowledge(Sender::External, sent);
    assert!(dialog.is_settled(Sender::Internal));
    fill(&mut dialog);
    assert!(!dialog.is_over());
}

#[test]
fn another_identifier_of_the_client_waits_for_what_the_last_one_stands_in() {
    let mut dialog = talking(3);
    dialog.take(Sender::Internal, &said(kind::OUTGOING_CALL_REQUEST, 7, 0));
    dialog.take(Sender::External, &said(kind::OUTGOING_CALL_REPLY, 9, EXTERNAL));
    dialog.take(Sender::Internal, &said(kind::CALL_CLEAR_REQUEST, 7, 0));
    let next = said(kind::OUTGOING_CALL_REQUEST, 8, 0);
    assert_eq!(dialog.take(Sender::Internal, &next), 1, "left alone");
    dialog.acknowledge(Sender::Internal, 3 + 156 + 32);
    assert_eq!(dialog.take(Sender::Internal, &next), 0);
}
