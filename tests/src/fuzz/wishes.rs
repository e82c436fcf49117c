//! An input as decisions.

/// What a fuzzer wants, in the order in which it is asked; zeros once it has said everything.
#[derive(Clone, Debug)]
pub struct Wishes<'a> {
    rest: &'a [u8],
}

impl<'a> Wishes<'a> {
    /// All of an input.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether it has said everything.
    pub const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        for (to, from) in taken.iter_mut().zip(self.bytes(N)) {
            *to = *from;
        }
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A number of 16 bits.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    /// A number of 32 bits.
    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    /// A number of 64 bits.
    pub fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// One of these, of which there is at least one.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// As many bytes, or what is left.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Bytes behind their length, which is one byte.
    pub fn block(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.bytes(length.into())
    }

    /// All that is left.
    pub const fn rest(self) -> &'a [u8] {
        self.rest
    }
}
