//! Repeatable random numbers, for trials and tests of designs.

/// A stream of numbers (xorshift64*).
pub(crate) struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// An integer from 0 to below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// An integer of at most this size.
    pub fn integer(&mut self, most: i32) -> i32 {
        self.below(2 * most as u64 + 1) as i32 - most
    }

    /// Even over -1 to 1.
    #[cfg(test)]
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Of a normal distribution, about.
    #[cfg(test)]
    pub fn normal(&mut self) -> f32 {
        let mut even = || (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        ((0..12).map(|_| even()).sum::<f64>() - 6.0) as f32
    }
}
