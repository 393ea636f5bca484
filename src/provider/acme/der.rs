//! As much of DER as keys need: one value after the other.

/// INTEGER
pub(super) const INTEGER: u8 = 2;
/// OCTET STRING
pub(super) const OCTETS: u8 = 4;
/// SEQUENCE
pub(super) const SEQUENCE: u8 = 0x30;

/// Takes the value with this tag off the front; `None` if there is none.
pub(super) fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (first, rest) = input.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    *input = rest;
    (*first == tag).then_some(value)
}

/// The key inside of PKCS#8: PKCS#1 if it is one of RSA.
pub(super) fn inside_pkcs8(mut pkcs8: &[u8]) -> Option<&[u8]> {
    let mut all = take(&mut pkcs8, SEQUENCE)?;
    take(&mut all, INTEGER)?;
    take(&mut all, SEQUENCE)?;
    take(&mut all, OCTETS)
}

/// Modulus and exponent of an RSA public key, without leading zeros.
pub(super) fn rsa_public(mut key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut all = take(&mut key, SEQUENCE)?;
    let mut number = || {
        let value = take(&mut all, INTEGER)?;
        value.get(value.iter().position(|byte| *byte != 0)?..)
    };
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_and_what_is_cut_off_is_none() {
        let mut input = &[2, 1, 7, 4, 0x81, 2, 1, 2][..];
        assert_eq!(take(&mut input, INTEGER), Some(&[7][..]));
        assert_eq!(take(&mut input, OCTETS), Some(&[1, 2][..]));
        for cut in [&[][..], &[2], &[2, 1], &[2, 0x85, 0, 0, 0, 0, 0], &[2, 0x84, 255, 255, 255, 255], &[2, 0x80]] {
            assert_eq!(take(&mut &*cut, INTEGER), None);
        }
        assert_eq!(rsa_public(&[0x30, 6, 2, 1, 0, 2, 1, 3]), None);
        assert_eq!(rsa_public(&[0x30, 7, 2, 2, 0, 200, 2, 1, 3]), Some((&[200][..], &[3][..])));
    }
}
