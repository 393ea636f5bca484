//! Guesses a media type from the beginning of a body: the WHATWG MIME Sniffing tables in the choice and order of Go's
//! `http.DetectContentType`, so that the guesses are those that Traefik makes.

/// As much of a body as is looked at, in bytes.
pub const SNIFFED_BYTES: usize = 512;

const HTML: &str = "text/html; charset=utf-8";
const XML: &str = "text/xml; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const MP4: &str = "video/mp4";
const UNKNOWN: &str = "application/octet-stream";

/// The media type of a body that begins with these bytes; `application/octet-stream` if nothing better is known.
pub fn media_type(beginning: &[u8]) -> &'static str {
    let bytes = &beginning[..beginning.len().min(SNIFFED_BYTES)];
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ')).count();
    let text = &bytes[blanks..];
    if TAGS.iter().any(|tag| is_tag(text, tag)) {
        return HTML;
    }
    if text.starts_with(b"<?xml") {
        return XML;
    }
    let signed = |signatures: &[Signature]| {
        signatures.iter().find(|signature| signature.matches(bytes)).map(|signature| signature.media_type)
    };
    if let Some(found) = signed(DOCUMENTS) {
        return found;
    }
    if is_mp4(bytes) {
        return MP4;
    }
    if let Some(found) = signed(CONTAINERS) {
        return found;
    }
    if text.iter().any(|byte| is_binary(*byte)) { UNKNOWN } else { TEXT }
}

/// Tags with which HTML begins, in capitals.
const TAGS: [&[u8]; 17] = [
    b"<!DOCTYPE HTML",
    b"<HTML",
    b"<HEAD",
    b"<SCRIPT",
    b"<IFRAME",
    b"<H1",
    b"<DIV",
    b"<FONT",
    b"<TABLE",
    b"<A",
    b"<STYLE",
    b"<TITLE",
    b"<B",
    b"<BODY",
    b"<BR",
    b"<P",
    b"<!--",
];

/// Whether `text` begins with `tag`, its letters in either case, and then with what may end a tag's name.
fn is_tag(text: &[u8], tag: &[u8]) -> bool {
    text.get(..tag.len()).is_some_and(|name| name.eq_ignore_ascii_case(tag))
        && matches!(text.get(tag.len()), Some(b' ' | b'>'))
}

/// Bytes by which a format is known: these at the start and, after a gap that is not looked at, those at an offset.
struct Signature {
    start: &'static [u8],
    then: Option<(usize, &'static [u8])>,
    /// Bytes that there must be at least, be they what they may.
    least: usize,
    media_type: &'static str,
}

impl Signature {
    fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.least
            && bytes.starts_with(self.start)
            && self.then.is_none_or(|(at, then)| bytes.get(at..).is_some_and(|rest| rest.starts_with(then)))
    }
}

const fn start(start: &'static [u8], media_type: &'static str) -> Signature {
    Signature { start, then: None, least: 0, media_type }
}

/// The table wants four bytes of a byte order mark, of which two or three count.
const fn mark(start: &'static [u8], media_type: &'static str) -> Signature {
    Signature { start, then: None, least: 4, media_type }
}

/// An IFF or RIFF file: a name, a length, and the name of the format.
const fn chunk(start: &'static [u8], format: &'static [u8], media_type: &'static str) -> Signature {
    Signature { start, then: Some((8, format)), least: 0, media_type }
}

/// What is looked for before MP4, in this order.
const DOCUMENTS: &[Signature] = &[
    start(b"%PDF-", "application/pdf"),
    start(b"%!PS-Adobe-", "application/postscript"),
    mark(b"\xfe\xff", "text/plain; charset=utf-16be"),
    mark(b"\xff\xfe", "text/plain; charset=utf-16le"),
    mark(b"\xef\xbb\xbf", TEXT),
    start(b"\x00\x00\x01\x00", "image/x-icon"),
    start(b"\x00\x00\x02\x00", "image/x-icon"),
    start(b"BM", "image/bmp"),
    start(b"GIF87a", "image/gif"),
    start(b"GIF89a", "image/gif"),
    chunk(b"RIFF", b"WEBPVP", "image/webp"),
    start(b"\x89PNG\r\n\x1a\n", "image/png"),
    start(b"\xff\xd8\xff", "image/jpeg"),
    chunk(b"FORM", b"AIFF", "audio/aiff"),
    start(b"ID3", "audio/mpeg"),
    start(b"OggS\x00", "application/ogg"),
    start(b"MThd\x00\x00\x00\x06", "audio/midi"),
    chunk(b"RIFF", b"AVI ", "video/avi"),
    chunk(b"RIFF", b"WAVE", "audio/wave"),
];

/// What is looked for after MP4, in this order.
const CONTAINERS: &[Signature] = &[
    start(b"\x1a\x45\xdf\xa3", "video/webm"),
    Signature { start: b"", then: Some((34, b"LP")), least: 0, media_type: "application/vnd.ms-fontobject" },
    start(b"\x00\x01\x00\x00", "font/ttf"),
    start(b"OTTO", "font/otf"),
    start(b"ttcf", "font/collection"),
    start(b"wOFF", "font/woff"),
    start(b"wOF2", "font/woff2"),
    start(b"\x1f\x8b\x08", "application/x-gzip"),
    start(b"PK\x03\x04", "application/zip"),
    start(b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    start(b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
    start(b"\x00asm", "application/wasm"),
];

/// Whether the first box is a whole `ftyp` box that names a brand of MP4. The four bytes at 12 are a version, no brand.
fn is_mp4(bytes: &[u8]) -> bool {
    let Some((length, _)) = bytes.split_first_chunk::<4>() else { return false };
    let length = u32::from_be_bytes(*length) as usize;
    if bytes.len() < 12 || bytes.len() < length || !length.is_multiple_of(4) || &bytes[4..8] != b"ftyp" {
        return false;
    }
    (8..length).step_by(4).filter(|at| *at != 12).any(|at| bytes[at..].starts_with(b"mp4"))
}

/// Whether a byte occurs in no text.
fn is_binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(beginning: &[u8], expected: &str) {
        assert_eq!(media_type(beginning), expected, "{}", beginning.escape_ascii());
    }

    #[test]
    fn knows_text() {
        for (beginning, expected) in [
            (&b""[..], TEXT),
            (b"{\"a\": [1, 2]}", TEXT),
            (b"plain words", TEXT),
            (b"  \x1b[0m escape is text", TEXT),
            (b"\xc3\xa4", TEXT),
            (b"a\x00b", UNKNOWN),
            (b"\x01\x02\x03", UNKNOWN),
            (b"\xfe\xffab", "text/plain; charset=utf-16be"),
            (b"\xff\xfeab", "text/plain; charset=utf-16le"),
            (b"\xef\xbb\xbfa", TEXT),
            (b"\xfe\xff\x00", UNKNOWN),
            (b"<?xml version=\"1.0\"?>", XML),
            (b"\n <?xml ?>", XML),
            (b"<?XML ?>", TEXT),
            (b"%PDF-1.7", "application/pdf"),
            (b"%!PS-Adobe-3.0", "application/postscript"),
        ] {
            check(beginning, expected);
        }
    }

    #[test]
    fn knows_html_by_its_tags() {
        for (beginning, expected) in [
            (&b"<!doctype html><html>"[..], HTML),
            (b"<!DOCTYPE HTML ", HTML),
            (b"\r\n\t <html>", HTML),
            (b"<HtMl >", HTML),
            (b"<a href>", HTML),
            (b"<h1>", HTML),
            (b"<!-- ", HTML),
            (b"<html", TEXT),
            (b"<html\n>", TEXT),
            (b"<h2>", TEXT),
            (b"<article>", TEXT),
            (b"<!--x", TEXT),
        ] {
            check(beginning, expected);
        }
    }

    #[test]
    fn knows_formats_by_their_signatures() {
        let font = [&[7; 34][..], b"LP"].concat();
        for (beginning, expected) in [
            (&b"GIF87a"[..], "image/gif"),
            (b"GIF89a...", "image/gif"),
            (b"\x89PNG\r\n\x1a\n\x00", "image/png"),
            (b"\xff\xd8\xff", "image/jpeg"),
            (b"BM", "image/bmp"),
            (b"\x00\x00\x01\x00", "image/x-icon"),
            (b"RIFF\x01\x02\x03\x04WEBPVP8", "image/webp"),
            (b"RIFF\x01\x02\x03\x04WAVEfmt", "audio/wave"),
            (b"RIFF\x01\x02\x03\x04AVI x", "video/avi"),
            (b"RIFFxxxxABCD", TEXT),
            (b"FORM\x00\x00\x00\x01AIFF", "audio/aiff"),
            (b"ID3\x03", "audio/mpeg"),
            (b"OggS\x00", "application/ogg"),
            (b"OggS", TEXT),
            (b"MThd\x00\x00\x00\x06", "audio/midi"),
            (b"\x1a\x45\xdf\xa3", "video/webm"),
            (&font, "application/vnd.ms-fontobject"),
            (b"\x00\x01\x00\x00", "font/ttf"),
            (b"wOF2", "font/woff2"),
            (b"\x1f\x8b\x08", "application/x-gzip"),
            (b"PK\x03\x04", "application/zip"),
            (b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
            (b"\x00asm\x01", "application/wasm"),
        ] {
            check(beginning, expected);
        }
    }

    #[test]
    fn knows_mp4_by_a_brand() {
        for (beginning, expected) in [
            (&b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom<\x06t"[..], MP4),
            (b"\x00\x00\x00\x14ftypisom\x00\x00\x02\x00mp41", MP4),
            (b"\x00\x00\x00\x10ftypisommp42", UNKNOWN),
            (b"\x00\x00\x00\x18ftypmp42", UNKNOWN),
            (b"\x00\x00\x00\x11ftypmp42\x00\x00\x00\x00m", UNKNOWN),
            (b"\xff\xff\xff\xfcftypmp42\x00\x00\x00\x00", UNKNOWN),
            (b"\x00\x00\x00\x04ftypmp42\x00\x00\x00\x00", UNKNOWN),
        ] {
            check(beginning, expected);
        }
    }

    #[test]
    fn looks_at_512_bytes() {
        check(&[&[b' '; 506][..], b"<html>"].concat(), HTML);
        check(&[&[b' '; 507][..], b"<html>"].concat(), TEXT);
        check(&[&[b'a'; 512][..], b"\x00"].concat(), TEXT);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_type(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(media_type(&bytes).contains('/'));
            let text: Vec<u8> = bytes.iter().map(|byte| byte | 0x80).collect();
            prop_assert!(media_type(&text).starts_with("text/") || text.starts_with(b"\xff\xd8\xff"));
        }

        #[test]
        fn boxes_of_any_length_are_read_within_bounds(length: u32, rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [&length.to_be_bytes()[..], b"ftyp", &rest].concat();
            prop_assert!(media_type(&bytes).contains('/'));
        }
    }
}
