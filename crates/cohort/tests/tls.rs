//! Encrypted connections: QEMU's and libnbd's clients and our own, and those that must not come in.

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use lab::server::Server;
use lab::{Lab, have};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

const TOOLS: [&str; 3] = ["qemu-img", "nbdinfo", "nbdcopy"];

/// Who vouches for others.
struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { certificate, key }
    }

    /// Puts its own certificate, and one for a side with its key, into a folder.
    fn fill(&self, folder: &Path, side: Option<&str>) {
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("ca-cert.pem"), self.certificate.pem()).expect("a file");
        let Some(side) = side else { return };
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("parameters");
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![match side {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.certificate, &self.key);
        let pem = signed.expect("a certificate").pem();
        fs::write(folder.join(format!("{side}-cert.pem")), pem).expect("a file");
        fs::write(folder.join(format!("{side}-key.pem")), key.serialize_pem()).expect("a file");
    }
}

/// A lab with a disk, and folders: of the server, of a client that it knows, of one without a certificate, and of one that
/// another authority vouches for but that knows the right server.
fn lab_with_certificates() -> Lab {
    let lab = Lab::new();
    lab.noise("a.raw", 1, 3 << 20);
    let (ours, other) = (Authority::new(), Authority::new());
    ours.fill(&lab.path("server"), Some("server"));
    ours.fill(&lab.path("known"), Some("client"));
    ours.fill(&lab.path("nameless"), None);
    other.fill(&lab.path("stranger"), Some("client"));
    fs::copy(
        lab.path("server/ca-cert.pem"),
        lab.path("stranger/ca-cert.pem"),
    )
    .expect("a file");
    other.fill(&lab.path("misled"), Some("client"));
    lab
}

fn by_unix(lab: &Lab, folder: &str) -> String {
    let (socket, folder) = (lab.path("s"), lab.path(folder));
    format!(
        "nbds+unix:///a?socket={}&tls-certificates={}",
        socket.display(),
        folder.display()
    )
}

/// Whether a tool of libnbd and a backup of ours get in.
fn get_in(lab: &Lab, uri: &str) -> [bool; 2] {
    let nbdinfo = Command::new("nbdinfo").arg(uri).output().expect("nbdinfo");
    let _ = fs::remove_dir_all(lab.path("R"));
    let ours = lab.cohort(["backup", uri, "--to", "R"]);
    [nbdinfo.status.success(), ours.code == Some(0)]
}

#[test]
fn encrypted_disks_are_read_and_written_by_who_is_known() {
    if !have(&TOOLS) {
        return;
    }
    let lab = lab_with_certificates();
    let server = Server::start(
        &lab,
        &[
            "a.raw",
            "--tls-certificates",
            "server",
            "--listen",
            "127.0.0.1:0",
        ],
    );
    let known = by_unix(&lab, "known");
    lab.tool("nbdcopy", &[&known, "copied"]);
    assert!(fs::read(lab.path("copied")).unwrap() == fs::read(lab.path("a.raw")).unwrap());
    lab.noise("new", 2, 3 << 20);
    lab.tool("nbdcopy", &["--flush", "--connections=4", "new", &known]);
    lab.cohort(["backup", &known, "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "new");
    // QEMU wants a host's name.
    let port = server.port();
    let image = format!("driver=nbd,host=127.0.0.1,port={port},export=a,tls-creds=t");
    let creds = format!(
        "tls-creds-x509,id=t,endpoint=client,dir={}",
        lab.path("known").display()
    );
    lab.tool(
        "qemu-img",
        &[
            "compare",
            "--object",
            &creds,
            "--image-opts",
            &image,
            "driver=raw,file.filename=new",
        ],
    );
    let tcp = format!(
        "nbds://127.0.0.1:{port}/a?tls-certificates={}",
        lab.path("known").display()
    );
    let _ = fs::remove_dir_all(lab.path("R"));
    lab.cohort(["backup", &tcp, "--to", "R"]).exits(0);
    lab.restores_to("R", "a", "new");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn nobody_else_gets_in() {
    if !have(&TOOLS) {
        return;
    }
    let lab = lab_with_certificates();
    let plain = format!("nbd+unix:///a?socket={}", lab.path("s").display());
    let gets_in = |folder: &str| get_in(&lab, &by_unix(&lab, folder));
    {
        let _server = Server::start(&lab, &["a.raw", "--tls-certificates", "server"]);
        assert_eq!(get_in(&lab, &plain), [false, false]);
        lab.cohort(["backup", &plain, "--to", "R"])
            .exits(21)
            .says(&["TLS"]);
        assert_eq!(gets_in("known"), [true, true]);
        for folder in ["nameless", "stranger", "misled"] {
            assert_eq!(gets_in(folder), [false, false], "{folder}");
        }
    }
    {
        let args = ["a.raw", "--tls-certificates", "server", "--tls-anyone"];
        let _server = Server::start(&lab, &args);
        assert_eq!(get_in(&lab, &plain), [false, false]);
        for folder in ["known", "nameless", "stranger"] {
            assert_eq!(gets_in(folder), [true, true], "{folder}");
        }
        // What the other client makes of a server that it does not know is its own affair.
        let [_, ours] = gets_in("misled");
        assert!(!ours, "it does not know the server");
    }
    {
        let args = ["a.raw", "--tls-certificates", "server", "--tls-optional"];
        let _server = Server::start(&lab, &args);
        assert_eq!(get_in(&lab, &plain), [true, true]);
        assert_eq!(gets_in("known"), [true, true]);
        assert_eq!(gets_in("stranger"), [false, false]);
    }
    let _server = Server::start(&lab, &["a.raw"]);
    lab.cohort(["backup", &by_unix(&lab, "known"), "--to", "R"])
        .exits(21)
        .says(&["no TLS"]);
}

#[test]
fn who_breaks_off_or_talks_nonsense_harms_nobody() {
    if !have(&TOOLS) {
        return;
    }
    let lab = lab_with_certificates();
    let server = Server::start(&lab, &["a.raw", "--tls-certificates", "server"]);
    for nonsense in [
        &b""[..],
        &[0; 100],
        b"GET / HTTP/1.0\r\n\r\n",
        &[22, 3, 1, 0x40, 0xff],
    ] {
        let mut stream = server.connect();
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        stream.write_all(&3u32.to_be_bytes()).expect("it listens");
        stream
            .write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0")
            .expect("it listens");
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[15], 1, "it agrees");
        stream.write_all(nonsense).expect("it listens");
        stream.shutdown(std::net::Shutdown::Write).expect("said");
        // Whatever it says to that, it is not long.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100, "{rest:?}");
    }
    lab.tool("nbdinfo", &[&by_unix(&lab, "known")]);
}

#[test]
fn a_folder_that_makes_no_sense_is_named() {
    let lab = lab_with_certificates();
    let serve = |folder: &str| {
        lab.cohort([
            "serve",
            "a.raw",
            "--socket",
            "s",
            "--tls-certificates",
            folder,
        ])
    };
    serve("none").exits(1).says(&["none/"]);
    serve("known").exits(1).says(&["known/server-cert.pem"]);
    fs::write(lab.path("server/server-key.pem"), "no key").expect("a file");
    serve("server").exits(1).says(&["server/server-key.pem"]);
    lab.cohort(["serve", "a.raw", "--socket", "s", "--tls-optional"])
        .exits(2);
    lab.cohort(["backup", "nbds://localhost/a", "--to", "R"])
        .exits(2)
        .says(&["tls-certificates"]);
}
