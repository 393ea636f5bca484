//! `rfc2136`: the record is written by a DNS UPDATE message (RFC 2136), signed with a shared key (RFC 8945).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::look_up::LookUp;
use super::{Environment, Record};

const WITHIN: Duration = Duration::from_secs(10);
const TTL_SECONDS: u32 = 120;
/// How far clocks may differ, in seconds.
const FUDGE: u16 = 300;

const TXT: u16 = 16;
const SOA: u16 = 6;
const TSIG: u16 = 250;
const CLASS_IN: u16 = 1;
const CLASS_NONE: u16 = 254;
const CLASS_ANY: u16 = 255;
const UPDATE: u16 = 5 << 11;

#[derive(Clone, Copy)]
pub(super) enum Change {
    Add,
    Remove,
}

pub(super) struct Rfc2136 {
    server: String,
    key: Option<Box<Key>>,
    ttl: u32,
}

struct Key {
    name: String,
    /// Its name in messages.
    algorithm: &'static str,
    secret: hmac::Key,
}

impl Rfc2136 {
    pub(super) fn new(environment: &Environment) -> Result<Self, String> {
        let mut server = environment.need(&["RFC2136_NAMESERVER"])?;
        let has_port = server
            .rsplit_once(':')
            .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
        if !has_port {
            server = if server.contains(':') && !server.starts_with('[') {
                format!("[{server}]:53")
            } else {
                server + ":53"
            };
        }
        let ttl = environment.find("RFC2136_TTL")?.map(|ttl| ttl.parse().map_err(|_| "`RFC2136_TTL` is no number"));
        let key = match (environment.find("RFC2136_TSIG_KEY")?, environment.find("RFC2136_TSIG_SECRET")?) {
            (Some(name), Some(secret)) => {
                let algorithm = environment.find("RFC2136_TSIG_ALGORITHM")?;
                Some(Box::new(Key::new(&name, &secret, algorithm.as_deref().unwrap_or("hmac-sha1."))?))
            }
            (None, None) => None,
            _ => return Err("`RFC2136_TSIG_KEY` and `RFC2136_TSIG_SECRET` belong together".to_owned()),
        };
        Ok(Self { server, key, ttl: ttl.transpose()?.unwrap_or(TTL_SECONDS) })
    }

    /// Adds or removes one text, and leaves others alone.
    pub(super) async fn change(&self, change: Change, record: &Record<'_>, look_up: &LookUp) -> Result<(), String> {
        let zone = look_up.zone(&record.name).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let id = fastrand::u16(..);
        let message = self.message(id, change, &zone, record, now)?;
        let code = tokio::time::timeout(WITHIN, self.send(&message, id))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")))
            .map_err(|error| format!("{}: {error}", self.server))?;
        // RFC 6895 §2.3.
        let name = match code {
            0 => return Ok(()),
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            9 => "NOTAUTH",
            10 => "NOTZONE",
            _ => "an error",
        };
        Err(format!("{} answers {name} ({code}) for zone {zone}", self.server))
    }

    async fn send(&self, message: &[u8], id: u16) -> Result<u8, String> {
        let told = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(&self.server).await.map_err(told)?;
        let length = u16::try_from(message.len()).map_err(|_| "the message is too long")?;
        stream.write_all(&length.to_be_bytes()).await.map_err(told)?;
        stream.write_all(message).await.map_err(told)?;
        let length = stream.read_u16().await.map_err(told)?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.map_err(told)?;
        match answer.get(..4) {
            Some([a, b, flags, code]) if [*a, *b] == id.to_be_bytes() && flags & 0x80 != 0 => Ok(code & 15),
            _ => Err("what answers is no name server".to_owned()),
        }
    }

    fn message(&self, id: u16, change: Change, zone: &str, record: &Record<'_>, now: u64) -> Result<Vec<u8>, String> {
        let mut message = Vec::new();
        for number in [id, UPDATE, 1, 0, 1, 0] {
            message.extend(number.to_be_bytes());
        }
        name(&mut message, zone)?;
        numbers(&mut message, &[SOA, CLASS_IN]);
        name(&mut message, &record.name)?;
        let (class, ttl) = match change {
            Change::Add => (CLASS_IN, self.ttl),
            Change::Remove => (CLASS_NONE, 0),
        };
        numbers(&mut message, &[TXT, class]);
        message.extend(ttl.to_be_bytes());
        let length = u8::try_from(record.text.len()).map_err(|_| "the text is too long")?;
        numbers(&mut message, &[u16::from(length) + 1]);
        message.push(length);
        message.extend(record.text.bytes());
        if let Some(key) = &self.key {
            key.sign(&mut message, id, now)?;
        }
        Ok(message)
    }
}

impl Key {
    fn new(name: &str, secret: &str, algorithm: &str) -> Result<Self, String> {
        let (algorithm, hash) = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha1" => ("hmac-sha1.", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            "hmac-sha224" => ("hmac-sha224.", hmac::HMAC_SHA224),
            "hmac-sha256" => ("hmac-sha256.", hmac::HMAC_SHA256),
            "hmac-sha384" => ("hmac-sha384.", hmac::HMAC_SHA384),
            "hmac-sha512" => ("hmac-sha512.", hmac::HMAC_SHA512),
            other => {
                return Err(format!(
                    "`RFC2136_TSIG_ALGORITHM` is `{other}`; there are hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384, hmac-sha512"
                ));
            }
        };
        let secret = BASE64_STANDARD.decode(secret).map_err(|_| "`RFC2136_TSIG_SECRET` is not base64")?;
        let name = format!("{}.", name.trim_end_matches('.').to_ascii_lowercase());
        Ok(Self { name, algorithm, secret: hmac::Key::new(hash, &secret) })
    }

    /// Adds the signature (RFC 8945 §4.2, §4.3.3).
    fn sign(&self, message: &mut Vec<u8>, id: u16, now: u64) -> Result<(), String> {
        let mut times = now.to_be_bytes()[2..].to_vec();
        times.extend(FUDGE.to_be_bytes());
        let mut signed = message.clone();
        name(&mut signed, &self.name)?;
        numbers(&mut signed, &[CLASS_ANY, 0, 0]);
        name(&mut signed, self.algorithm)?;
        signed.extend(&times);
        numbers(&mut signed, &[0, 0]);
        let mac = hmac::sign(&self.secret, &signed);
        let mac = mac.as_ref();
        let mut data = Vec::new();
        name(&mut data, self.algorithm)?;
        data.extend(&times);
        numbers(&mut data, &[mac.len() as u16]);
        data.extend(mac);
        numbers(&mut data, &[id, 0, 0]);
        name(message, &self.name)?;
        numbers(message, &[TSIG, CLASS_ANY, 0, 0, data.len() as u16]);
        message.extend(data);
        // One additional record.
        if let Some(count) = message.get_mut(10..12) {
            count.copy_from_slice(&1_u16.to_be_bytes());
        }
        Ok(())
    }
}

fn numbers(message: &mut Vec<u8>, numbers: &[u16]) {
    message.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

/// A name as labels (RFC 1035 §3.1), in lower case as signatures want it.
fn name(message: &mut Vec<u8>, written: &str) -> Result<(), String> {
    for label in written.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        message.push(length.ok_or_else(|| format!("`{written}` is no name"))?);
        message.extend(label.to_ascii_lowercase().bytes());
    }
    message.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::acme::proof::Proof;

    fn proof() -> Proof {
        Proof { name: "a.test".into(), token: "t".into(), authorization: "t.x".into() }
    }

    #[test]
    fn messages_are_as_the_rfc_has_them() {
        let proof = proof();
        let record = Record { name: "_x.a.test.".to_owned(), text: "v".to_owned(), proof: &proof };
        let variables = [("RFC2136_NAMESERVER", "::1"), ("RFC2136_TTL", "9")];
        let rfc2136 = Rfc2136::new(&Environment::of(&variables)).unwrap();
        assert_eq!(rfc2136.server, "[::1]:53");
        let message = rfc2136.message(7, Change::Add, "a.test.", &record, 0).unwrap();
        let expected = b"\0\x07\x28\0\0\x01\0\0\0\x01\0\0\x01a\x04test\0\0\x06\0\x01\x02_x\x01a\x04test\0\0\x10\0\x01\0\0\0\x09\0\x02\x01v";
        assert_eq!(message, expected);
        let message = rfc2136.message(7, Change::Remove, "a.test.", &record, 0).unwrap();
        assert!(message.ends_with(b"\0\x10\0\xfe\0\0\0\0\0\x02\x01v"));
    }

    #[test]
    fn variables_that_make_no_sense_are_named() {
        for (variables, expected) in [
            (&[][..], "RFC2136_NAMESERVER"),
            (&[("RFC2136_NAMESERVER", "a"), ("RFC2136_TSIG_KEY", "k")], "belong together"),
            (
                &[
                    ("RFC2136_NAMESERVER", "a"),
                    ("RFC2136_TSIG_KEY", "k"),
                    ("RFC2136_TSIG_SECRET", "AA=="),
                    ("RFC2136_TSIG_ALGORITHM", "hmac-md5.sig-alg.reg.int."),
                ],
                "hmac-md5",
            ),
        ] {
            let error = Rfc2136::new(&Environment::of(variables)).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }
}
