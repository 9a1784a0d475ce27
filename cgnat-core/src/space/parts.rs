//! Parts of the address space: one bit for each /16, 8 KiB in all, so that it stays in the CPU's
//! nearest cache. What is asked for each packet is answered here for nearly all of them; what is
//! in a /16 with an exception is looked at closely elsewhere.

const WORDS: usize = (1 << 16) / 64;

/// Some of the /16s.
#[derive(Clone)]
pub struct Parts(Box<[u64; WORDS]>);

impl Parts {
    /// Every /16.
    pub fn all() -> Self {
        Self(Box::new([u64::MAX; WORDS]))
    }

    /// No /16.
    pub fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// Takes out those with an address from the first to the last.
    pub fn take_out(&mut self, (first, last): (u32, u32)) {
        for part in first >> 16..=last >> 16 {
            self.0[(part / 64) as usize] &= !(1 << (part % 64));
        }
    }

    /// Whether the /16 of `address` is one of them.
    #[inline]
    pub fn has(&self, address: u32) -> bool {
        let part = address >> 16;
        self.0[(part / 64) as usize] >> (part % 64) & 1 == 1
    }
}
