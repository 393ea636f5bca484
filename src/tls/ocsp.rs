//! What the authority of a certificate says of it (OCSP, RFC 6960): the question to its responder, and which answers are
//! believed. Touches neither clock nor network.

use rustls::pki_types::{CertificateDer, UnixTime};
use sha1::{Digest, Sha1};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::der::asn1::{AnyRef, Null, ObjectIdentifier, OctetString};
use x509_cert::der::{self, Decode, Encode, Header, Reader, SliceReader};
use x509_cert::ext::Extensions;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, OcspResponseStatus, Request,
    SingleResponse, TbsRequest,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Certificate;

/// Largest answer that is believed, in bytes: it is sent with every full handshake. With a certificate of its signer it has two
/// thousand or so.
pub const ANSWER_LIMIT_BYTES: usize = 16 << 10;

/// How far a responder's clock may be ahead of ours, in seconds.
const SKEW: i64 = 300;
/// Most signers' certificates of an answer that are tried.
const SIGNERS: usize = 4;
/// SHA-1: here it names, and proves nothing. It is what all responders know (RFC 5019 §2.1.1).
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
/// `id-kp-OCSPSigning` (RFC 6960 §4.2.2.2), without tag and length.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];

/// What is asked about one certificate.
#[derive(Debug)]
pub struct Question {
    id: CertId,
    request: Box<[u8]>,
    issuer: CertificateDer<'static>,
}

/// What the authority says, in an answer that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The certificate is good.
    Good(Answer),
    /// It was revoked: nobody should use it any more.
    Revoked {
        /// When, in seconds of Unix time.
        at: i64,
        /// What says so.
        answer: Answer,
    },
}

impl Verdict {
    /// The answer that says so.
    pub fn answer(&self) -> &Answer {
        match self {
            Self::Good(answer) | Self::Revoked { answer, .. } => answer,
        }
    }
}

/// An answer that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answer, as the responder has signed it.
    pub der: Box<[u8]>,
    /// From when it holds, in seconds of Unix time.
    pub this_update: i64,
    /// Until when it holds, in seconds of Unix time.
    pub next_update: i64,
}

impl Question {
    /// What is asked about `certificate`.
    ///
    /// # Errors
    /// A sentence, if its issuer is not among its chain.
    pub fn about(certificate: &Certificate) -> Result<Self, String> {
        let (leaf, rest) = certificate.chain().split_first().ok_or("there is no certificate")?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let issued = |(_, issuer): &(_, X509Certificate<'_>)| issuer.subject().as_raw() == leaf.issuer().as_raw();
        let read = rest.iter().filter_map(|der| Some((der, X509Certificate::from_der(der).ok()?.1)));
        let Some((der, issuer)) = read.into_iter().find(issued) else {
            return Err(format!("the certificate of its issuer ({}) does not follow it", leaf.issuer()));
        };
        let wrong = |error: der::Error| format!("its responder cannot be asked: {error}");
        let hash = |bytes: &[u8]| OctetString::new(Sha1::digest(bytes).to_vec()).map_err(wrong);
        let id = CertId {
            hash_algorithm: AlgorithmIdentifierOwned { oid: SHA1, parameters: Some(Null.into()) },
            issuer_name_hash: hash(leaf.issuer().as_raw())?,
            issuer_key_hash: hash(&issuer.public_key().subject_public_key.data)?,
            serial_number: serial(leaf.raw_serial()).map_err(wrong)?,
        };
        let request_list = vec![Request { req_cert: id.clone(), single_request_extensions: None }];
        let request =
            OcspRequest { tbs_request: TbsRequest { request_list, ..TbsRequest::default() }, optional_signature: None };
        Ok(Self { id, request: request.to_der().map_err(wrong)?.into(), issuer: der.clone() })
    }

    /// The request, in DER. There is no nonce in it: responders sign ahead, and answer all alike (RFC 5019 §2.1.1).
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// What an answer says, if it is one to this question, signed by who may, and holds `now`, in seconds of Unix time.
    ///
    /// # Errors
    /// A sentence: why it is not believed, or says nothing.
    pub fn judge(&self, answer: &[u8], now: i64) -> Result<Verdict, String> {
        if answer.len() > ANSWER_LIMIT_BYTES {
            return Err(format!("the answer is larger than {ANSWER_LIMIT_BYTES} bytes"));
        }
        let wrong = |error: der::Error| format!("the answer cannot be read: {error}");
        let response = OcspResponse::from_der(answer).map_err(wrong)?;
        if let Some(refusal) = refusal(response.response_status) {
            return Err(format!("the responder answers: {refusal}"));
        }
        let basic = response.response_bytes.ok_or("the answer is empty")?;
        if basic.response_type != <BasicOcspResponse as der::oid::AssociatedOid>::OID {
            return Err(format!("the answer is of a type that is not known: {}", basic.response_type));
        }
        let basic = basic.response.as_bytes();
        let read = BasicOcspResponse::from_der(basic).map_err(wrong)?;
        self.check_signature(signed_part(basic).map_err(wrong)?, &read, now)?;
        let data = &read.tbs_response_data;
        let about_us: Vec<_> = data.responses.iter().filter(|single| self.is_about(&single.cert_id)).collect();
        if about_us.is_empty() {
            return Err("the answer is about another certificate".to_owned());
        }
        if has_critical(&data.response_extensions)
            || about_us.iter().any(|single| has_critical(&single.single_extensions))
        {
            return Err("the answer has a critical extension that is not known".to_owned());
        }
        let mut verdict = None;
        for single in about_us {
            let (status, this_update, next_update) = judge_single(single, now)?;
            let answer = || Answer { der: answer.into(), this_update, next_update };
            match status {
                CertStatus::Good(_) => {
                    verdict.get_or_insert_with(|| Verdict::Good(answer()));
                }
                CertStatus::Revoked(info) => {
                    return Ok(Verdict::Revoked { at: seconds(&info.revocation_time), answer: answer() });
                }
                CertStatus::Unknown(_) => return Err("the responder does not know the certificate".to_owned()),
            }
        }
        verdict.ok_or_else(|| "the answer says nothing".to_owned())
    }

    fn is_about(&self, id: &CertId) -> bool {
        // Parameters are written as NULL or not at all.
        id.hash_algorithm.oid == self.id.hash_algorithm.oid
            && id.issuer_name_hash == self.id.issuer_name_hash
            && id.issuer_key_hash == self.id.issuer_key_hash
            && id.serial_number == self.id.serial_number
    }

    /// The issuer signs, or somebody to whom it has given a certificate for that (RFC 6960 §4.2.2.2).
    fn check_signature(&self, signed: &[u8], read: &BasicOcspResponse, now: i64) -> Result<(), String> {
        let unreadable = || "the signature of the answer cannot be read".to_owned();
        let algorithm = read.signature_algorithm.to_der().map_err(|_| unreadable())?;
        let algorithm = AnyRef::from_der(&algorithm).map_err(|_| unreadable())?;
        let signature = read.signature.as_bytes().ok_or_else(unreadable)?;
        let signed = Signed { algorithm: algorithm.value(), message: signed, signature };
        let mut why = match signed.by(&self.issuer) {
            Ok(()) => return Ok(()),
            Err(error) => format!("it is not signed by the issuer ({error})"),
        };
        for certificate in read.certs.iter().flatten().take(SIGNERS) {
            let Ok(der) = certificate.to_der().map(CertificateDer::from) else { continue };
            if signed.by(&der).is_err() {
                continue;
            }
            match may_sign(&der, &self.issuer, now) {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("who has signed it must not ({error})"),
            }
        }
        Err(format!("the answer is not believed: {why}"))
    }
}

/// A text with a signature.
struct Signed<'a> {
    /// What stands in an `AlgorithmIdentifier`.
    algorithm: &'a [u8],
    message: &'a [u8],
    signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether it was signed with the key of this certificate.
    fn by(&self, certificate: &CertificateDer<'_>) -> Result<(), webpki::Error> {
        let signer = EndEntityCert::try_from(certificate)?;
        let mut last =
            webpki::Error::UnsupportedSignatureAlgorithmContext(webpki::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: self.algorithm.to_vec(),
                supported_algorithms: Vec::new(),
            });
        // One identifier stands for several: those with keys of other curves.
        let known = super::provider().signature_verification_algorithms.all;
        for known in known.iter().filter(|known| *known.signature_alg_id() == *self.algorithm) {
            match signer.verify_signature(*known, self.message, self.signature) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Whether `signer` has a certificate of `issuer` that is valid and made for this.
fn may_sign(signer: &CertificateDer<'_>, issuer: &CertificateDer<'_>, now: i64) -> Result<(), webpki::Error> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.try_into().unwrap_or_default()));
    let anchors = [anchor_from_trusted_cert(issuer)?];
    let algorithms = super::provider().signature_verification_algorithms.all;
    let signer = EndEntityCert::try_from(signer)?;
    signer.verify_for_usage(algorithms, &anchors, &[], now, KeyUsage::required(OCSP_SIGNING), None, None).map(drop)
}

/// The state, and from when until when it holds.
fn judge_single(single: &SingleResponse, now: i64) -> Result<(CertStatus, i64, i64), String> {
    let this_update = seconds(&single.this_update);
    let Some(next_update) = single.next_update.as_ref().map(seconds) else {
        return Err("the answer does not say until when it holds".to_owned());
    };
    if next_update <= this_update {
        Err("the answer ends before it begins".to_owned())
    } else if this_update > now.saturating_add(SKEW) {
        Err(format!("the answer holds in {} s only", this_update.saturating_sub(now)))
    } else if next_update <= now {
        Err(format!("the answer has ended {} s ago", now.saturating_sub(next_update)))
    } else {
        Ok((single.cert_status, this_update, next_update))
    }
}

fn refusal(status: OcspResponseStatus) -> Option<&'static str> {
    match status {
        OcspResponseStatus::Successful => None,
        OcspResponseStatus::MalformedRequest => Some("malformed request"),
        OcspResponseStatus::InternalError => Some("internal error"),
        OcspResponseStatus::TryLater => Some("try later"),
        OcspResponseStatus::SigRequired => Some("a signed request is wanted"),
        OcspResponseStatus::Unauthorized => Some("unauthorized"),
    }
}

fn has_critical(extensions: &Option<Extensions>) -> bool {
    extensions.iter().flatten().any(|extension| extension.critical)
}

fn seconds(time: &OcspGeneralizedTime) -> i64 {
    i64::try_from(time.0.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

/// A serial number from the content of its INTEGER.
fn serial(content: &[u8]) -> der::Result<SerialNumber> {
    let mut written = vec![0x02];
    der::Length::try_from(content.len())?.encode_to_vec(&mut written)?;
    written.extend_from_slice(content);
    SerialNumber::from_der(&written)
}

/// The first member of a sequence, as it is written: what the signature is over.
fn signed_part(basic: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(basic)?;
    Header::decode(&mut reader)?;
    reader.tlv_bytes()
}
