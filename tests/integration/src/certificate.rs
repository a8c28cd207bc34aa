//! A certificate for a server of a test's own, made by an authority of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::system;

/// Files in a directory: the authority's certificate, the server's, and the server's key. They are of 127.0.0.1.
#[derive(Debug)]
pub struct Certificate {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    #[track_caller]
    pub fn make_in(directory: &Path) -> Self {
        let file = |name: &str| directory.join(name);
        let text = |path: PathBuf| path.to_str().expect("it is text").to_owned();
        let made = Self { ca: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") };
        fs::write(file("san"), "subjectAltName=IP:127.0.0.1\n").expect("the directory is ours");
        let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let [ca, certificate, key, ca_key, request, san] =
            ["ca.pem", "cert.pem", "key.pem", "ca.key", "csr.pem", "san"].map(|name| text(file(name)));
        let authority = ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout"];
        system(&[&authority[..], &[&ca_key, "-out", &ca], &ec].concat());
        let asked = ["openssl", "req", "-subj", "/CN=server", "-keyout"];
        system(&[&asked[..], &[&key, "-out", &request], &ec].concat());
        let signed = ["openssl", "x509", "-req", "-days", "2", "-CAcreateserial", "-in"];
        let by = [&request, "-CA", &ca, "-CAkey", &ca_key, "-extfile", &san, "-out", &certificate];
        system(&[&signed[..], &by].concat());
        made
    }
}
