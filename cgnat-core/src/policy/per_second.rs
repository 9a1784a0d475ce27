//! So many in a second and no more.

/// What was spent of a second's allowance.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    second: u32,
    count: u32,
}

impl Spent {
    /// Whether one more of at most `most` may be in this second; if so it is counted.
    pub fn take(&mut self, second: u32, most: u32) -> bool {
        if self.second != second {
            *self = Spent { second, count: 0 };
        }
        let allowed = self.count < most;
        self.count += u32::from(allowed);
        allowed
    }
}
