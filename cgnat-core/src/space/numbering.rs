//! The subscribers of a deterministic pool, numbered from 0 (RFC 7422 section 2).

/// Neighbouring internal addresses with neighbouring numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    number: u32,
    first: u32,
    last: u32,
}

/// Internal address <-> number, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbering {
    by_number: Vec<Piece>,
    by_address: Vec<Piece>,
}

impl Numbering {
    /// Numbers `pieces`, first and last addresses that do not overlap, in their order.
    pub(super) fn new(pieces: &[(u32, u32)]) -> Self {
        let mut number = 0;
        let mut by_number = Vec::with_capacity(pieces.len());
        for &(first, last) in pieces {
            by_number.push(Piece { number, first, last });
            number += last - first + 1;
        }
        let mut by_address = by_number.clone();
        by_address.sort_unstable_by_key(|piece| piece.first);
        Self { by_number, by_address }
    }

    pub(super) fn number_of(&self, address: u32) -> Option<u32> {
        let after = self.by_address.partition_point(|piece| piece.first <= address);
        let piece = self.by_address[..after].last()?;
        (address <= piece.last).then(|| piece.number + (address - piece.first))
    }

    pub(super) fn address_of(&self, number: u32) -> Option<u32> {
        let after = self.by_number.partition_point(|piece| piece.number <= number);
        let piece = self.by_number[..after].last()?;
        let address = piece.first.checked_add(number - piece.number)?;
        (address <= piece.last).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_given_and_lead_back() {
        let numbering = Numbering::new(&[(100, 103), (10, 10), (50, 51), (u32::MAX, u32::MAX)]);
        let addresses = [100, 101, 102, 103, 10, 50, 51, u32::MAX];
        for (number, address) in addresses.into_iter().enumerate() {
            assert_eq!(numbering.number_of(address), Some(number as u32));
            assert_eq!(numbering.address_of(number as u32), Some(address));
        }
        assert_eq!(numbering.address_of(8), None);
        for address in [0, 9, 11, 49, 52, 99, 104, u32::MAX - 1] {
            assert_eq!(numbering.number_of(address), None);
        }
        assert_eq!(Numbering::new(&[]).address_of(0), None);
    }
}
