//! An authority of OpenSSL's, what it says of its certificates (OCSP), and its own client, which asks for that.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::pebble::Process;
use super::tls::Pair;

/// Who vouches, in a folder of files: `NAME.pem` and `NAME.key` for each certificate, `ca` for its own.
pub(crate) struct Registry {
    folder: TempDir,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let registry = Self { folder: tempfile::tempdir().expect("a folder") };
        let name = format!("/CN=authority {:x}", fastrand::u64(..));
        registry.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout ca.key -out ca.pem",
            &["-subj", &name],
        );
        registry
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn openssl(&self, arguments: &str, rest: &[&str]) -> String {
        self.openssl_at(arguments, rest, &[])
    }

    /// Runs it in the folder, with these variables; what it prints.
    fn openssl_at(&self, arguments: &str, rest: &[&str], environment: &[(&str, &str)]) -> String {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path()).args(arguments.split_whitespace()).args(rest);
        let output = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().expect("openssl");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "openssl {arguments} {rest:?}: {text}");
        text
    }

    /// A certificate with these extensions, as lines of `x509v3_config`; it is followed by that of the authority.
    pub(crate) fn certify(&self, name: &str, serial: u32, extensions: &str) -> Pair {
        let subject = format!("/CN={name}");
        self.openssl(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes",
            &["-keyout", &format!("{name}.key"), "-out", &format!("{name}.csr"), "-subj", &subject],
        );
        fs::write(self.path("extensions"), format!("subjectAltName = DNS:{name}\n{extensions}\n")).expect("write");
        self.openssl(
            "x509 -req -CA ca.pem -CAkey ca.key -days 7 -extfile extensions",
            &["-in", &format!("{name}.csr"), "-out", &format!("{name}.pem"), "-set_serial", &serial.to_string()],
        );
        self.pair(name)
    }

    /// The chain and the key of a certificate.
    pub(crate) fn pair(&self, name: &str) -> Pair {
        let read = |file: String| fs::read_to_string(self.path(&file)).expect("read");
        Pair { certificate: read(format!("{name}.pem")) + &read("ca.pem".to_owned()), key: read(format!("{name}.key")) }
    }

    /// What is known of certificates, by their serial numbers in hexadecimal: whether they are good, or else revoked.
    pub(crate) fn know(&self, states: &[(&str, bool)]) {
        let line = |(serial, is_good): &(&str, bool)| match is_good {
            true => format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=x\n"),
            false => format!("R\t491231235959Z\t250101000000Z\t{serial}\tunknown\t/CN=x\n"),
        };
        fs::write(self.path("index"), states.iter().map(line).collect::<String>()).expect("write");
        fs::write(self.path("index.attr"), "unique_subject = no\n").expect("write");
    }

    /// What is said of a certificate, signed by who has this name. `more` are further arguments: until when it holds.
    pub(crate) fn answer(&self, name: &str, signer: &str, more: &str, environment: &[(&str, &str)]) -> Vec<u8> {
        let certificate = format!("{name}.pem");
        self.openssl("ocsp -issuer ca.pem -no_nonce -reqout request -cert", &[&certificate]);
        let (by, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let arguments =
            format!("ocsp -index index -CA ca.pem -reqin request -respout answer -rsigner {by} -rkey {key} {more}");
        self.openssl_at(&arguments, &[], environment);
        fs::read(self.path("answer")).expect("read")
    }

    /// Starts a responder whose answers hold for a day.
    pub(crate) fn respond(&self, port: u16) -> Process {
        let mut command = Command::new("openssl");
        let arguments = "ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 1 -port";
        command.current_dir(self.folder.path()).args(arguments.split_whitespace()).arg(port.to_string());
        Process::start(&mut command, &self.path("responder.log")).expect("openssl")
    }
}

/// What OpenSSL's client is shown of the state of a certificate, as it prints it; `None`: nothing.
pub(crate) async fn shown(address: SocketAddr, name: &str, authority: &Path, more: &str) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-status",
        "-verify_return_error",
        "-connect",
        &address.to_string(),
        "-servername",
        name,
    ]);
    command.arg("-CAfile").arg(authority).args(more.split_whitespace()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    if text.contains("OCSP response: no response sent") {
        return None;
    }
    assert!(text.contains("OCSP Response Status: successful"), "{text}");
    Some(text.split("OCSP Response Data:").nth(1).expect("the answer").split("-----BEGIN").next()?.to_owned())
}
