//! Choosing a port: uniformly among the free ones, so that a nearly full block does not make
//! some ports likelier than others (RFC 6056 section 5 forbids that of algorithm 1).

/// Position of the `n`-th (from 0) zero bit of `words`, lowest bit of the first word first.
pub fn nth_zero(words: &[u64], n: u32) -> Option<usize> {
    let mut left = n;
    for (place, word) in words.iter().enumerate() {
        let zeros = word.count_zeros();
        if left < zeros {
            let mut free = !word;
            for _ in 0..left {
                free &= free - 1;
            }
            return Some(place * 64 + free.trailing_zeros() as usize);
        }
        left -= zeros;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_each_zero_in_turn_and_none_beyond() {
        let words = [u64::MAX, 0b1011, u64::MAX ^ (1 << 63), !0];
        let zeros: Vec<usize> = (0..256).filter(|b| words[b / 64] >> (b % 64) & 1 == 0).collect();
        for (n, zero) in zeros.iter().enumerate() {
            assert_eq!(nth_zero(&words, n as u32), Some(*zero));
        }
        assert_eq!(nth_zero(&words, zeros.len() as u32), None);
    }
}
