//! Certificates for encrypted connections to a server of a test.

use std::path::Path;
use std::process::Command;

/// An authority, and a certificate of it for `address` that serves for both sides: the files of both
/// certificates and of the key.
pub(crate) fn certificates(place: &Path, address: &str) -> [String; 3] {
    let script = "set -e; cd \"$1\"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=authority -keyout authority.key -out authority.pem \
            -addext basicConstraints=critical,CA:TRUE
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node \
            -keyout key.pem -out request.pem
        printf 'subjectAltName=IP:%s\nextendedKeyUsage=serverAuth,clientAuth\n' \"$2\" > extensions
        openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial \
            -days 2 -extfile extensions -out certificate.pem";
    let mut command = Command::new("sh");
    let output = command.args(["-c", script, "sh"]).arg(place).arg(address).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ["authority.pem", "certificate.pem", "key.pem"]
        .map(|name| place.join(name).to_str().unwrap().to_owned())
}
