//! Writing values into log lines so that no client can forge a line, move a terminal's cursor or end a quoted field.

/// Ends a value that was too long.
const ELLIPSIS: &[u8] = b"...";
/// The longest escape of one character: a surrogate pair in JSON, `\ud83d\ude00`.
const LONGEST_ESCAPE: usize = 12;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes that are written as they are, in text and JSON alike: printable ASCII without `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    table
};

/// Appends `value` for a text line: controls and bytes from 0x7f on as `\xhh`, quotes and backslashes with a backslash.
///
/// At most `limit` bytes are appended, and three more if the value had to be cut.
pub(crate) fn push_text(line: &mut Vec<u8>, value: &[u8], limit: usize) {
    if value.len() <= limit && value.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        line.extend_from_slice(value);
        return;
    }
    let end = line.len() + limit;
    for &byte in value {
        if line.len() + LONGEST_ESCAPE.min(limit) > end {
            line.extend_from_slice(ELLIPSIS);
            return;
        }
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            _ if PLAIN[usize::from(byte)] => line.push(byte),
            _ => line.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// Appends `value` as words of a text line that no quotes enclose: as [`push_text`], but quotes and backslashes stay.
pub(crate) fn push_words(line: &mut Vec<u8>, value: &str, limit: usize) {
    for part in value.split_inclusive(['"', '\\']) {
        let (words, mark) = match part.as_bytes() {
            [words @ .., mark @ (b'"' | b'\\')] => (words, Some(*mark)),
            words => (words, None),
        };
        push_text(line, words, limit);
        line.extend(mark);
    }
}

/// Appends `value` for the inside of a JSON string: everything but printable ASCII is escaped, bytes that are not UTF-8
/// become U+FFFD. Limits are those of [`push_text`].
pub(crate) fn push_json(line: &mut Vec<u8>, value: &[u8], limit: usize) {
    if value.len() <= limit && value.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        line.extend_from_slice(value);
        return;
    }
    let end = line.len() + limit;
    for chunk in value.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for character in chunk.valid().chars().chain(invalid) {
            if line.len() + LONGEST_ESCAPE.min(limit) > end {
                line.extend_from_slice(ELLIPSIS);
                return;
            }
            push_json_char(line, character);
        }
    }
}

fn push_json_char(line: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => line.extend_from_slice(&[b'\\', character as u8]),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        ' '..='~' => line.push(character as u8),
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                line.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    line.push(HEX[usize::from(*unit >> shift & 15)]);
                }
            }
        }
    }
}

/// Appends a number in decimal.
pub(crate) fn push_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &[u8], limit: usize) -> String {
        let mut line = Vec::new();
        push_text(&mut line, value, limit);
        String::from_utf8(line).unwrap()
    }

    fn json(value: &[u8], limit: usize) -> String {
        let mut line = Vec::new();
        push_json(&mut line, value, limit);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn text_table() {
        for (value, expected) in [
            (&b"plain text"[..], "plain text"),
            (b"a\r\nb", "a\\r\\nb"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            (b"say \"hi\" \\", "say \\\"hi\\\" \\\\"),
            ("é".as_bytes(), "\\xc3\\xa9"),
            (b"\xff\x00\x7f\x9b", "\\xff\\x00\\x7f\\x9b"),
        ] {
            assert_eq!(text(value, 100), expected);
        }
    }

    #[test]
    fn json_table() {
        for (value, expected) in [
            (&b"plain"[..], "plain"),
            (b"a\r\n\t\"\\", "a\\r\\n\\t\\\"\\\\"),
            (b"\x1b\x7f", "\\u001b\\u007f"),
            ("é😀\u{2028}".as_bytes(), "\\u00e9\\ud83d\\ude00\\u2028"),
            (b"a\xffb", "a\\ufffdb"),
        ] {
            assert_eq!(json(value, 100), expected);
        }
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(text(&[b'a'; 50], 40).len(), 32);
        assert!(text(&[0xff; 5000], 100).len() <= 103);
        assert!(json("😀".repeat(5000).as_bytes(), 100).ends_with("..."));
        assert_eq!(text(&[b'a'; 40], 40).len(), 40);
    }

    #[test]
    fn numbers() {
        for number in [0, 7, 10, 99, 12345, u64::MAX] {
            let mut line = Vec::new();
            push_number(&mut line, number);
            assert_eq!(line, number.to_string().into_bytes());
        }
    }

    proptest! {
        #[test]
        fn output_is_printable_and_json_reads_back(value: Vec<u8>) {
            let written = text(&value, 1 << 20);
            prop_assert!(written.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let written = json(&value, 1 << 20);
            prop_assert!(written.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let read: String = serde_json::from_str(&format!("\"{written}\"")).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value));
        }
    }
}
