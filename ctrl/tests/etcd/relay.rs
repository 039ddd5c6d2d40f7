//! A wire to a server that can be cut in two ways.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the wire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Whole,
    /// Packets vanish: nothing is told to either side.
    Swallows,
    /// Only what the server says vanishes.
    SwallowsAnswers,
    /// Connections are closed, old ones and new ones.
    Refuses,
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    wire: watch::Sender<Wire>,
}

impl Relay {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, seen) = watch::channel(Wire::Whole);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let seen = seen.clone();
                if *seen.borrow() == Wire::Refuses {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::join!(
                        carry(near_read, far_write, seen.clone(), &[Wire::Swallows]),
                        carry(far_read, near_write, seen, &[Wire::Swallows, Wire::SwallowsAnswers])
                    );
                });
            }
        });
        Self { address, wire }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
    deadly: &[Wire],
) {
    let mut buffer = vec![0; 65_536];
    // What was swallowed once is missing in the stream, so it stays dead.
    let mut dead = false;
    loop {
        tokio::select! {
            changed = wire.changed() => {
                dead |= deadly.contains(&wire.borrow());
                if changed.is_err() || *wire.borrow() == Wire::Refuses {
                    return;
                }
            }
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if dead => {}
                Ok(length) => if to.write_all(&buffer[..length]).await.is_err() { return },
            }
        }
    }
}
