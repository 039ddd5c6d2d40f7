//! One step of a plan, done.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tracing::debug;

use super::ROUTE_PROTOCOL;
use super::plan::{Action, Actual, length_of};
use super::settings::Setting;
use crate::interface::message::{family, new_address, old_address, route_address};
use crate::interface::reader::Netlink;
use crate::interface::snapshot::Route;

/// `ESRCH`: there is no such route. The same on every architecture, like those below.
const NO_SUCH_ROUTE: i32 = 3;
/// `EADDRNOTAVAIL`: there is no such address.
const NO_SUCH_ADDRESS: i32 = 99;
/// `EPERM`.
const NOT_PERMITTED: i32 = 1;
/// `EROFS`.
const READ_ONLY: i32 = 30;

/// What became of the steps.
#[derive(Default)]
pub(super) struct Executed {
    /// The steps that succeeded.
    pub(super) done: Vec<String>,
    /// A sentence for each that failed and is needed.
    pub(super) failures: Vec<String>,
}

/// Does every step, whatever becomes of the others.
pub(super) async fn execute(
    netlink: &Netlink,
    actual: &Actual,
    device: &str,
    actions: &[Action],
) -> Executed {
    let mut executed = Executed::default();
    for action in actions {
        match step(netlink, actual.index, device, action).await {
            Ok(()) => executed.done.push(action.to_string()),
            Err(error) if matches!(action, Action::Set(setting) if !setting.is_needed(device)) => {
                debug!(%error, %action, device, "a setting that can be done without");
            }
            Err(error) => executed.failures.push(sentence(device, action, &error)),
        }
    }
    executed
}

fn sentence(device: &str, action: &Action, error: &io::Error) -> String {
    let remedy = match (action, error.raw_os_error()) {
        (Action::Set(Setting::ReversePath), Some(READ_ONLY)) => {
            format!(
                ". Set net.ipv4.conf.{device}.rp_filter=2 on the host, or mount /proc/sys writable"
            )
        }
        (_, Some(NOT_PERMITTED)) => ". Run as root or with CAP_NET_ADMIN".to_owned(),
        _ => String::new(),
    };
    format!("{device}: could not {action}: {error}{remedy}")
}

async fn step(netlink: &Netlink, index: u32, device: &str, action: &Action) -> io::Result<()> {
    let handle = netlink.handle();
    let outcome = match action {
        Action::Set(setting) => return setting.write(device),
        Action::SetMtu(mtu) => {
            let message = LinkUnspec::new_with_index(index).mtu(*mtu).build();
            handle.link().set(message).execute().await
        }
        Action::SetUp => {
            let message = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(message).execute().await
        }
        Action::AddAddress(address) => {
            let mut request = handle.address().add(index, *address, length_of(*address)).replace();
            *request.message_mut() = new_address(index, *address);
            request.execute().await
        }
        Action::AddRoute(network) => {
            handle.route().add(into_device(*network, index)).execute().await
        }
        Action::ReplaceRoute(network) => {
            handle.route().add(into_device(*network, index)).replace().execute().await
        }
        Action::DeleteRoute(route) => {
            let outcome = handle.route().del(to_delete(route)).execute().await;
            return unless_gone(outcome, NO_SUCH_ROUTE);
        }
        Action::DeleteAddress(address) => {
            let outcome = handle.address().del(old_address(address)).execute().await;
            return unless_gone(outcome, NO_SUCH_ADDRESS);
        }
    };
    outcome.map_err(|error| plain(&error))
}

fn into_device(network: IpNet, index: u32) -> RouteMessage {
    let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    match network {
        IpNet::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(index)
            .protocol(protocol)
            .build(),
        IpNet::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(index)
            .protocol(protocol)
            .build(),
    }
}

/// Names everything by which the kernel tells this route from others (`fib_table_delete` and
/// `ip6_route_del`), above all that it is ours.
fn to_delete(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(route.protocol);
    header.scope = RouteScope::from(route.scope);
    header.tos = route.tos;
    // Whichever it is.
    header.kind = RouteType::Unspec;
    header.destination_prefix_length = route.destination.prefix_len();
    let destination = route_address(route.destination.network());
    header.address_family = family(route.destination.network());
    message.attributes.push(RouteAttribute::Destination(destination));
    message.attributes.push(RouteAttribute::Priority(route.metric));
    if let [hop] = route.hops.as_slice() {
        message.attributes.push(RouteAttribute::Oif(hop.link));
    }
    message
}

/// What is gone already, by somebody else or with another object, needs no deleting.
fn unless_gone(outcome: Result<(), rtnetlink::Error>, gone: i32) -> io::Result<()> {
    match outcome.map_err(|error| plain(&error)) {
        Err(error) if error.raw_os_error() == Some(gone) => Ok(()),
        outcome => outcome,
    }
}

fn plain(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        error => io::Error::other(error.to_string()),
    }
}
