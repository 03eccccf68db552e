//! Choices drawn from bytes, so that whoever shrinks the bytes makes the packet simpler: once they have run out, every choice
//! is the first.

/// What is left to draw from.
pub(super) struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let word = if count > 256 {
            usize::from(self.word())
        } else {
            usize::from(self.byte())
        };
        word % count
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Once in so many times.
    pub(super) fn once_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }
}
