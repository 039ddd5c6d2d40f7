//! News of the addresses of this host.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::BoxStream;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::sys::SocketAddr;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::reader::Netlink;

/// Changes come in groups: an address goes, and another one comes.
const SETTLING: Duration = Duration::from_millis(50);

/// Pause before another socket is opened in place of one that failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Tells that the addresses of this host may have changed. What is announced between two questions is
/// not lost.
#[derive(Default)]
pub(crate) struct AddressNews {
    listening: Option<Listening>,
    /// Something was announced; it is told at this time.
    tell_at: Option<Instant>,
}

struct Listening {
    announcements: BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Keeps the socket open.
    _netlink: Netlink,
}

impl AddressNews {
    /// Waits for the next change. May be dropped at any time.
    pub(crate) async fn changed(&mut self) {
        loop {
            if let Some(tell_at) = self.tell_at {
                sleep_until(tell_at).await;
                self.tell_at = None;
                return;
            }
            let Some(listening) = &mut self.listening else {
                self.listening = listen();
                if self.listening.is_none() {
                    sleep(SOCKET_PAUSE).await;
                }
                continue;
            };
            if listening.announcements.next().await.is_none() {
                // Something may have been missed.
                self.listening = None;
            } else {
                while listening.announcements.next().now_or_never().flatten().is_some() {}
            }
            self.tell_at = Some(Instant::now() + SETTLING);
        }
    }
}

fn listen() -> Option<Listening> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    match rtnetlink::new_multicast_connection(&groups) {
        Ok((connection, handle, announcements)) => Some(Listening {
            announcements: announcements.boxed(),
            _netlink: Netlink::run(connection, handle),
        }),
        Err(error) => {
            debug!(%error, "the host's addresses cannot be listened to");
            None
        }
    }
}
