use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Served {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
}

struct Fixed(Arc<AtomicBool>);

impl Probed for Fixed {
    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn checks(&self) -> Vec<Check> {
        let problem = (!self.is_ready()).then(|| "it does not answer".to_owned());
        vec![Check { name: "datastore", problem }, Check { name: "device", problem: None }]
    }

    fn metrics(&self) -> (String, &'static str) {
        ("numbers 1\n".to_owned(), "text/numbers")
    }
}

async fn serve() -> Served {
    let health = Health::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = health.address().unwrap();
    let ready = Arc::new(AtomicBool::new(false));
    let probed = Arc::new(Fixed(Arc::clone(&ready)));
    tokio::spawn(async move { health.serve(probed).await });
    Served { address, ready }
}

/// Sends bytes and returns all that comes until the connection closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is fine too: the daemon may close with bytes of ours unread.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn request(address: SocketAddr, method: &str, path: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(address, &head).await
}

#[tokio::test]
async fn the_answer_has_the_form_of_flanneld() {
    let served = serve().await;
    let answer = request(served.address, "GET", "/healthz").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    for header in
        ["\r\ncontent-length: 19", "\r\ncontent-type: text/plain; charset=utf-8", "\r\ndate: "]
    {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!(body, "flanneld is running");
}

#[tokio::test]
async fn readiness_follows_the_flag() {
    let served = serve().await;
    let answer = request(served.address, "GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nflanneld is not ready yet"), "{answer}");
    served.ready.store(true, Ordering::Release);
    let answer = request(served.address, "GET", "/readyz?other").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nflanneld is ready"), "{answer}");
    served.ready.store(false, Ordering::Release);
    assert!(request(served.address, "GET", "/readyz").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn metrics_have_their_own_type() {
    let served = serve().await;
    let answer = request(served.address, "GET", "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/numbers\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnumbers 1\n"), "{answer}");
}

#[tokio::test]
async fn readiness_in_words_names_each_part() {
    let served = serve().await;
    for path in ["/readyz?verbose", "/readyz?a=b&verbose=1"] {
        let answer = request(served.address, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let lines =
            "[-]datastore failed: it does not answer\n[+]device ok\nflanneld is not ready yet";
        assert!(answer.ends_with(&format!("\r\n\r\n{lines}")), "{answer}");
    }
    served.ready.store(true, Ordering::Release);
    let answer = request(served.address, "GET", "/readyz?verbose").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lines = "[+]datastore ok\n[+]device ok\nflanneld is ready";
    assert!(answer.ends_with(&format!("\r\n\r\n{lines}")), "{answer}");
}

#[tokio::test]
async fn any_method_is_served_and_other_paths_are_not_found() {
    let served = serve().await;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "WEFT"] {
        let answer = request(served.address, method, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{method}: {answer}");
    }
    let answer = request(served.address, "HEAD", "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    for path in ["/", "/healthz/", "/healthzz", "/Readyz", "/metrics/"] {
        let answer = request(served.address, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn one_connection_serves_several_probes() {
    let served = serve().await;
    let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(served.address, &format!("{one}{one}{last}")).await;
    assert_eq!(answer.matches("flanneld is running").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 404 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn nonsense_and_endless_heads_end_the_connection() {
    let served = serve().await;
    let answer = exchange(served.address, "\0\0\0\0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let endless = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(2 * HEAD_BYTES_MAX));
    let answer = exchange(served.address, &endless).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(), "{answer}");
    let answer = request(served.address, "GET", "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "still serving: {answer}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_off() {
    let served = serve().await;
    assert_eq!(exchange(served.address, "GET /healthz").await, "");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let served = serve().await;
    let error = Health::open(served.address).await.unwrap_err().to_string();
    assert!(error.contains(&served.address.to_string()), "{error}");
    assert!(error.contains("--healthz-port"), "{error}");
}
