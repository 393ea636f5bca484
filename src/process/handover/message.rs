//! What old and new process say to each other: one small message per packet, every part of it bounded.
//!
//! `magic, version, kind, length of the rest (u32), the rest`; numbers are big-endian. Only `failed` must never change its form,
//! so that versions which cannot work together can still say so.

use std::fmt;

use super::sockets::{BoundBy, Protocol, SocketName};

/// The version of everything but `failed`.
pub(super) const VERSION: u8 = 1;
/// Longest packet in bytes, far below a socket buffer.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// The kernel passes at most this many descriptors with one packet (`SCM_MAX_FD`).
pub(super) const MAX_SOCKETS_PER_MESSAGE: usize = 253;
/// More sockets than that are a mistake.
pub(super) const MAX_SOCKETS: usize = 4096;
/// Longest entry point name and longest address, in bytes.
pub(super) const MAX_FIELD: usize = 1024;
/// Most bytes of secrets.
pub(super) const MAX_SECRETS: usize = 4096;
/// Longest note in bytes: one is a packet.
pub(super) const MAX_NOTE: usize = MAX_BYTES - HEADER;
/// Most bytes of all notes by their [`weight`]: those of ten thousand certificates.
pub(super) const MAX_NOTES: usize = 32 << 20;
/// What a note takes in memory besides its bytes: short ones must not be endlessly many.
const NOTE_OVERHEAD: usize = 64;
/// Longest reason in bytes; the rest is cut.
const MAX_REASON: usize = 4096;

const MAGIC: u8 = 0xB7;
const HEADER: usize = 7;
/// Kind, last-flag and count of a `sockets` message, and its fields per socket beside the texts.
const SOCKETS_OVERHEAD: usize = HEADER + 3;
const SOCKET_OVERHEAD: usize = 5;

/// How much of [`MAX_NOTES`] a note takes.
pub(super) fn weight(note: &[u8]) -> usize {
    note.len().saturating_add(NOTE_OVERHEAD)
}

/// What the successor is to know besides the sockets. What it means is not this module's business.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Opaque(pub(super) Vec<u8>);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message that comes out of turn is told in the log, and nobody else is to know a secret.
        write!(f, "{} bytes", self.0.len())
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Old to new: the names of the sockets that travel with this packet, in the same order; `last` ends the series.
    Sockets { names: Vec<SocketName>, last: bool },
    /// Old to new, before the sockets: what only the two shall know. Not sent if there is nothing.
    Secrets(Opaque),
    /// Old to new, before the sockets: what spares the new process work. As many as there are.
    Note(Opaque),
    /// New to old: all is checked. The numbers count through all sockets sent and name those that were closed unclaimed.
    Ready { unclaimed: Vec<u16> },
    /// New to old: it cannot be done, for this reason.
    Failed { reason: String },
    /// Old to new: accept.
    Go,
    /// New to old: accepting, go and drain.
    Accepting,
    /// New to old: I end on purpose; do not take over again.
    Leaving,
    /// New to old: nobody is to wait at these sockets any more. Close them until you take over again.
    Dropped { names: Vec<SocketName> },
}

/// Why a packet was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbled {
    #[error("it is not one of ours")]
    Foreign,
    #[error("it speaks version {0} of the hand-over, we speak version {VERSION}")]
    Version(u8),
    #[error("a part of it is missing or too long")]
    Malformed,
}

impl Message {
    /// The packet.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Garbled> {
        let mut packet = vec![MAGIC, VERSION, self.kind(), 0, 0, 0, 0];
        match self {
            Self::Sockets { names, last } => {
                packet.push(u8::from(*last));
                put_names(&mut packet, names)?;
            }
            Self::Dropped { names } => put_names(&mut packet, names)?,
            Self::Ready { unclaimed } => {
                put_number(&mut packet, unclaimed.len())?;
                unclaimed.iter().for_each(|index| packet.extend(index.to_be_bytes()));
            }
            Self::Secrets(Opaque(bytes)) if bytes.len() > MAX_SECRETS => return Err(Garbled::Malformed),
            Self::Secrets(Opaque(bytes)) | Self::Note(Opaque(bytes)) => packet.extend(bytes),
            Self::Failed { reason } => packet.extend(cut(reason, MAX_REASON).as_bytes()),
            Self::Go | Self::Accepting | Self::Leaving => {}
        }
        if packet.len() > MAX_BYTES {
            return Err(Garbled::Malformed);
        }
        let length = u32::try_from(packet.len() - HEADER).map_err(|_| Garbled::Malformed)?;
        packet[3..HEADER].copy_from_slice(&length.to_be_bytes());
        Ok(packet)
    }

    /// Reads a packet.
    pub(super) fn decode(packet: &[u8]) -> Result<Self, Garbled> {
        let (&[magic, version, kind, a, b, c, d], rest) =
            packet.split_first_chunk::<HEADER>().ok_or(Garbled::Foreign)?;
        if magic != MAGIC {
            return Err(Garbled::Foreign);
        }
        if usize::try_from(u32::from_be_bytes([a, b, c, d])) != Ok(rest.len()) || packet.len() > MAX_BYTES {
            return Err(Garbled::Malformed);
        }
        if kind == 3 {
            return Ok(Self::Failed { reason: cut(&String::from_utf8_lossy(rest), MAX_REASON).to_owned() });
        }
        if version != VERSION {
            return Err(Garbled::Version(version));
        }
        let mut reader = Reader(rest);
        let message = match kind {
            1 => reader.sockets()?,
            2 => reader.ready()?,
            4 => Self::Go,
            5 => Self::Accepting,
            6 => Self::Leaving,
            8 => Self::Dropped { names: reader.names()? },
            7 if rest.len() <= MAX_SECRETS => return Ok(Self::Secrets(Opaque(rest.to_vec()))),
            9 => return Ok(Self::Note(Opaque(rest.to_vec()))),
            _ => return Err(Garbled::Malformed),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(Garbled::Malformed) }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Sockets { .. } => 1,
            Self::Ready { .. } => 2,
            Self::Failed { .. } => 3,
            Self::Go => 4,
            Self::Accepting => 5,
            Self::Leaving => 6,
            Self::Secrets(_) => 7,
            Self::Dropped { .. } => 8,
            Self::Note(_) => 9,
        }
    }
}

/// Splits the names into series that fit one packet each. At least one, so that the last one can say so.
pub(super) fn packets(names: &[SocketName]) -> Vec<&[SocketName]> {
    let mut packets = Vec::new();
    let (mut start, mut bytes) = (0, SOCKETS_OVERHEAD);
    for (at, name) in names.iter().enumerate() {
        let more = SOCKET_OVERHEAD + name.entry_point.as_str().len() + name.address.len();
        if at - start == MAX_SOCKETS_PER_MESSAGE || (bytes + more > MAX_BYTES && at > start) {
            packets.push(&names[start..at]);
            (start, bytes) = (at, SOCKETS_OVERHEAD);
        }
        bytes += more;
    }
    packets.push(&names[start..]);
    packets
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn sockets(&mut self) -> Result<Message, Garbled> {
        let last = match self.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Garbled::Malformed),
        };
        Ok(Message::Sockets { names: self.names()?, last })
    }

    fn names(&mut self) -> Result<Vec<SocketName>, Garbled> {
        let count = usize::from(self.number()?);
        if count > MAX_SOCKETS_PER_MESSAGE {
            return Err(Garbled::Malformed);
        }
        let mut names = Vec::with_capacity(count);
        for _ in 0..count {
            let byte = self.byte()?;
            let bound_by = if byte.is_ascii_uppercase() { BoundBy::Systemd } else { BoundBy::Gateway };
            let protocol = match byte.to_ascii_lowercase() {
                b't' => Protocol::Tcp,
                b'u' => Protocol::Udp,
                b'x' => Protocol::Unix,
                _ => return Err(Garbled::Malformed),
            };
            let (entry_point, address) = (self.text()?.into(), self.text()?.to_owned());
            names.push(SocketName { entry_point, protocol, address, bound_by });
        }
        Ok(names)
    }

    fn ready(&mut self) -> Result<Message, Garbled> {
        let count = usize::from(self.number()?);
        if count > MAX_SOCKETS {
            return Err(Garbled::Malformed);
        }
        let unclaimed = (0..count).map(|_| self.number()).collect::<Result<_, _>>()?;
        Ok(Message::Ready { unclaimed })
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        let (byte, rest) = self.0.split_first().ok_or(Garbled::Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u16, Garbled> {
        let (number, rest) = self.0.split_first_chunk::<2>().ok_or(Garbled::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*number))
    }

    fn text(&mut self) -> Result<&str, Garbled> {
        let length = usize::from(self.number()?);
        if length > MAX_FIELD {
            return Err(Garbled::Malformed);
        }
        let (text, rest) = self.0.split_at_checked(length).ok_or(Garbled::Malformed)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Garbled::Malformed)
    }
}

/// A small letter for what a gateway bound, a capital one for what systemd did.
fn kind_byte(name: &SocketName) -> u8 {
    let letter = match name.protocol {
        Protocol::Tcp => b't',
        Protocol::Udp => b'u',
        Protocol::Unix => b'x',
    };
    match name.bound_by {
        BoundBy::Gateway => letter,
        BoundBy::Systemd => letter.to_ascii_uppercase(),
    }
}

fn put_names(packet: &mut Vec<u8>, names: &[SocketName]) -> Result<(), Garbled> {
    put_number(packet, names.len())?;
    for name in names {
        packet.push(kind_byte(name));
        put_text(packet, name.entry_point.as_str())?;
        put_text(packet, &name.address)?;
    }
    Ok(())
}

fn put_number(packet: &mut Vec<u8>, number: usize) -> Result<(), Garbled> {
    packet.extend(u16::try_from(number).map_err(|_| Garbled::Malformed)?.to_be_bytes());
    Ok(())
}

fn put_text(packet: &mut Vec<u8>, text: &str) -> Result<(), Garbled> {
    if text.len() > MAX_FIELD {
        return Err(Garbled::Malformed);
    }
    put_number(packet, text.len())?;
    packet.extend(text.as_bytes());
    Ok(())
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(entry_point: &str, address: &str) -> SocketName {
        let (address, bound_by) = (address.to_owned(), BoundBy::Gateway);
        SocketName { entry_point: entry_point.into(), protocol: Protocol::Udp, address, bound_by }
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let longest = "n".repeat(MAX_FIELD);
        let message = Message::Sockets { names: vec![name(&longest, &longest)], last: true };
        assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        let too_long = "n".repeat(MAX_FIELD + 1);
        assert!(Message::Sockets { names: vec![name(&too_long, "")], last: true }.encode().is_err());
        let message = Message::Secrets(Opaque(vec![7; MAX_SECRETS]));
        assert!(!format!("{message:?}").contains('7'), "never told");
        assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        assert!(Message::Secrets(Opaque(vec![0; MAX_SECRETS + 1])).encode().is_err());
        let message = Message::Note(Opaque(vec![7; MAX_NOTE]));
        assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        assert!(Message::Note(Opaque(vec![0; MAX_NOTE + 1])).encode().is_err());
        let reason = "ü".repeat(MAX_REASON);
        let cut = Message::decode(&Message::Failed { reason }.encode().unwrap()).unwrap();
        assert_eq!(cut, Message::Failed { reason: "ü".repeat(MAX_REASON / 2) });
    }

    #[test]
    fn a_failure_is_understood_in_any_version() {
        let mut packet = Message::Failed { reason: "no".to_owned() }.encode().unwrap();
        packet[1] = 9;
        assert_eq!(Message::decode(&packet), Ok(Message::Failed { reason: "no".to_owned() }));
        let mut packet = Message::Go.encode().unwrap();
        packet[1] = 9;
        assert_eq!(Message::decode(&packet), Err(Garbled::Version(9)));
    }

    #[test]
    fn every_series_fits_a_packet() {
        let short: Vec<_> = (0..600).map(|at| name(&at.to_string(), ":1")).collect();
        assert_eq!(packets(&short).iter().map(|p| p.len()).collect::<Vec<_>>(), [253, 253, 94]);
        assert_eq!(packets(&[]).len(), 1);
        let long: Vec<_> = (0..100).map(|_| name(&"n".repeat(MAX_FIELD), &"a".repeat(MAX_FIELD))).collect();
        let packets = packets(&long);
        assert_eq!(packets.iter().map(|p| p.len()).sum::<usize>(), 100);
        for names in packets {
            Message::Sockets { names: names.to_vec(), last: false }.encode().unwrap();
        }
    }

    fn names() -> impl Strategy<Value = Vec<SocketName>> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Unix)];
        let bound_by = prop_oneof![Just(BoundBy::Gateway), Just(BoundBy::Systemd)];
        let name = (".{0,40}", protocol, ".{0,40}", bound_by).prop_map(|(entry_point, protocol, address, bound_by)| {
            SocketName { entry_point: entry_point.into(), protocol, address, bound_by }
        });
        prop::collection::vec(name, 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            names in names(),
            last: bool,
            unclaimed: Vec<u16>,
            secrets: Vec<u8>,
            note: Vec<u8>,
            reason in ".{0,200}",
        ) {
            for message in [
                Message::Dropped { names: names.clone() },
                Message::Sockets { names, last },
                Message::Secrets(Opaque(secrets)),
                Message::Note(Opaque(note)),
                Message::Ready { unclaimed },
                Message::Failed { reason },
                Message::Go,
                Message::Accepting,
                Message::Leaving,
            ] {
                prop_assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
            }
        }

        #[test]
        fn anything_may_come(noise: Vec<u8>, kind: u8) {
            let _ = Message::decode(&noise);
            let mut framed = vec![MAGIC, VERSION, kind % 10];
            framed.extend(u32::try_from(noise.len()).unwrap().to_be_bytes());
            framed.extend(&noise);
            if let Ok(message) = Message::decode(&framed) {
                prop_assert!(message.encode().is_ok());
            }
            framed.pop();
            prop_assert!(Message::decode(&framed).is_err(), "a cut packet is never read");
        }
    }
}
