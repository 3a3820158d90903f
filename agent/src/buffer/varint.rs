//! Variable-length integers and a bounded reader over bytes that may be damaged or hostile.

/// Appends `n` in groups of seven bits, least first; small numbers take one byte.
pub fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number so that small magnitudes of either sign are short.
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, (n.wrapping_shl(1) ^ (n >> 63)) as u64);
}

/// Appends a length and the bytes themselves.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that end too early, or a number that doesn't fit 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes end too early, or hold a number that is too great")]
pub struct Short;

/// Reads from the front of a slice; never past its end, never more than it holds.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the first byte of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.0.len()
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, Short> {
        let (first, rest) = self.0.split_first().ok_or(Short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next number.
    pub fn unsigned(&mut self) -> Result<u64, Short> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Short);
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(Short)
    }

    /// The next signed number.
    pub fn signed(&mut self) -> Result<i64, Short> {
        let n = self.unsigned()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// The next number as a count of things that take at least `each` bytes of what is left: no allocation that
    /// follows it can be greater than the input justifies.
    pub fn count(&mut self, each: usize) -> Result<usize, Short> {
        let n = usize::try_from(self.unsigned()?).map_err(|_| Short)?;
        if n > self.left() / each.max(1) { Err(Short) } else { Ok(n) }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Short> {
        let n = self.count(1)?;
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were(n: u64, i: i64) {
            let mut out = Vec::new();
            put(&mut out, n);
            put_signed(&mut out, i);
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.unsigned(), Ok(n));
            prop_assert_eq!(r.signed(), Ok(i));
            prop_assert_eq!(r.left(), 0);
        }
    }

    #[test]
    fn a_number_that_never_ends_is_refused() {
        assert_eq!(Reader::new(&[0xff; 20]).unsigned(), Err(Short));
        assert_eq!(Reader::new(&[0x80]).unsigned(), Err(Short));
        assert_eq!(Reader::new(&[200, 1, 1]).bytes(), Err(Short));
    }
}
